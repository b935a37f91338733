package config

import (
	"os"
	"path/filepath"
	"strings"
)

// paths refuses a path that the server writes to which lies in, above or at the
// directory whose files it runs: whoever gets the server to write a file would
// get it to run one.
func (b *builder) paths() {
	c := b.config
	if b.bad["plugins.dir"] {
		return
	}
	run, err := resolve(c.Plugins.Dir)
	if err != nil {
		b.wrongf("plugins.dir", "is %q, which cannot be resolved: %v; want a directory", c.Plugins.Dir, err)
		return
	}
	for _, w := range []struct{ key, path, shown string }{
		{"data_dir", c.DataDir, c.DataDir},
		{"auth.keys", c.Auth.Keys, c.Auth.Keys},
		{"storage.dsn", dsnFile(c.Storage.DSN.Reveal()), c.Storage.DSN.String()},
	} {
		written, err := resolve(w.path)
		switch {
		case err != nil:
			b.wrongf(w.key, "is %q, which cannot be resolved; want a path whose links lead somewhere", w.shown)
		case within(written, run) || within(run, written):
			b.wrongf(w.key, "is %q, which lies in, above or at plugins.dir (%s); want them apart, since the server writes to one and runs the other", w.shown, c.Plugins.Dir)
		}
	}
}

// dsnFile is the file of a SQLite data source, which may be a file: URI.
func dsnFile(dsn string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(dsn, "file:"), "?")
	return path
}

// resolve makes path absolute and follows the links of as much of it as exists.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	target, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return target, nil
	}
	parent := filepath.Dir(abs)
	if _, lerr := os.Lstat(abs); !os.IsNotExist(lerr) || parent == abs {
		return "", err // a link that leads nowhere, or a directory that may not be read
	}
	if parent, err = resolve(parent); err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
