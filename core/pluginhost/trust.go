package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// openTrusted opens a plugin's file for reading, if nobody but root and the
// server's user could have put it there or changed it (docs/plugin.md §1):
//
//   - Links are resolved; what is judged and opened is the file they lead to.
//   - The file belongs to root or to the server's user and is writable by neither
//     group nor world.
//   - So is every directory above it, with one exception as in sudo's and sshd's
//     checks of such paths turned practical: a directory with the sticky bit (such
//     as /tmp) may be writable by all, because there nobody can rename or remove an
//     entry of another's, and the next entry on the path is itself checked.
//   - The exception does not hold for the directory that the file lies in, nor for
//     dir, the plugins directory: whoever may add entries there adds plugins.
//
// The file's properties are read from the open descriptor, so what was judged is
// what will be copied.
func openTrusted(dir, name string) (*os.File, error) {
	resolvedDir, err := resolve(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve plugins directory: %w", err)
	}
	path, err := resolve(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("resolve plugin file: %w", err)
	}
	for _, d := range []string{resolvedDir, filepath.Dir(path)} {
		if err := checkDirectories(d); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open plugin file: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = checkFile(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func resolve(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not a regular, executable file", path)
	}
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o: its group or everybody may write to it (chmod go-w)", path, mode)
	}
	return nil
}

// checkDirectories judges dir and all above it; dir itself has no exception.
func checkDirectories(dir string) error {
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("look at directory: %w", err)
		}
		if err := checkOwner(at, info); err != nil {
			return err
		}
		sticky := info.Mode()&fs.ModeSticky != 0 && at != dir
		if mode := info.Mode().Perm(); mode&0o022 != 0 && !sticky {
			return fmt.Errorf("directory %s has mode %04o: its group or everybody may put files there (chmod go-w)", at, mode)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

func checkOwner(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: this system does not tell who owns it", path)
	}
	if uid := int(stat.Uid); uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d, want root or the server's user (uid %d)", path, uid, os.Geteuid())
	}
	return nil
}
