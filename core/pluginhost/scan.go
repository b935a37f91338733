package pluginhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/rs/zerolog"
)

var pluginName = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

// scan returns the files in dir that are plugins, by name (docs/plugin.md §1).
// Each other file gets one log line that says why it is none.
func scan(dir string, log zerolog.Logger) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		log.Warn().Str("dir", dir).Msg("No plugins directory, so no plugins")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("scan plugins: %w", err)
	}
	var names []string
	for _, e := range entries {
		if err := isPlugin(dir, e.Name()); err != nil {
			log.Warn().Str("file", e.Name()).Str("reason", err.Error()).Msg("File ignored in the plugins directory")
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// isPlugin says why a directory entry is no plugin. Links count as what they
// lead to.
func isPlugin(dir, name string) error {
	info, err := os.Stat(filepath.Join(dir, name))
	switch {
	case err != nil:
		return fmt.Errorf("look at file: %w", err)
	case info.IsDir():
		return errors.New("is a directory")
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("is not executable (chmod +x makes it so)")
	case !pluginName.MatchString(name):
		return fmt.Errorf("name does not match %s", pluginName)
	}
	return nil
}
