package lockfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

const (
	// Name is the file's name, beside the plugins.
	Name = "plugins.lock"

	header = "# plugboard plugins.lock v1"
	// maxBytes bounds the file; a line has about a hundred bytes.
	maxBytes = 1 << 20
	none     = "-"
)

var (
	namePattern    = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z.+-]{1,128}$`)
	sumPattern     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	grantPattern   = regexp.MustCompile(`^([a-z]+|(read|write|exec):/[^\s,]*)$`)
)

// Entry is one plugin that may run.
type Entry struct {
	Name    string
	Version string // as it describes itself
	SHA256  string // of its file, hexadecimal
	Grants  []string
}

// File is the contents of a plugins.lock. Its zero value is an empty one.
type File struct {
	entries map[string]Entry
}

// Find is a plugin's entry.
func (f *File) Find(name string) (Entry, bool) {
	e, ok := f.entries[name]
	return e, ok
}

// Entries are all, by name.
func (f *File) Entries() []Entry {
	all := make([]Entry, 0, len(f.entries))
	for _, e := range f.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Set puts an entry in the place of the plugin's former one. It refuses what could
// not be read again.
func (f *File) Set(e Entry) error {
	if _, err := parseLine(line(e)); err != nil {
		return fmt.Errorf("lock plugin %q: %w", e.Name, err)
	}
	if f.entries == nil {
		f.entries = make(map[string]Entry)
	}
	e.Grants = slices.Clone(e.Grants)
	f.entries[e.Name] = e
	return nil
}

// Remove forgets a plugin and reports whether it stood there.
func (f *File) Remove(name string) bool {
	_, ok := f.entries[name]
	delete(f.entries, name)
	return ok
}

// Format is the file's text: sorted, and the same for the same entries.
func (f *File) Format() []byte {
	var out bytes.Buffer
	out.WriteString(header + "\n")
	for _, e := range f.Entries() {
		out.WriteString(line(e) + "\n")
	}
	return out.Bytes()
}

func line(e Entry) string {
	grants := none
	if len(e.Grants) > 0 {
		sorted := slices.Sorted(slices.Values(e.Grants))
		grants = strings.Join(slices.Compact(sorted), ",")
	}
	return strings.Join([]string{e.Name, e.Version, "sha256:" + e.SHA256, grants}, " ")
}

// Parse reads a plugins.lock. Errors name the line and what would be right.
func Parse(r io.Reader) (*File, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("read %s: more than %d bytes", Name, maxBytes)
	}
	f := &File{entries: make(map[string]Entry)}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxBytes+1)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSuffix(lines.Text(), "\r")
		if n == 1 {
			if text != header {
				return nil, fmt.Errorf("%s line 1: want %q", Name, header)
			}
			continue
		}
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		e, err := parseLine(text)
		if err == nil && f.entries[e.Name].Name != "" {
			err = fmt.Errorf("plugin %q stands twice", e.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", Name, n, err)
		}
		f.entries[e.Name] = e
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", Name, err)
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("%s line 1: want %q", Name, header)
	}
	return f, nil
}

func parseLine(text string) (Entry, error) {
	parts := strings.Split(text, " ")
	if len(parts) != 4 {
		return Entry{}, fmt.Errorf("want four words: name version sha256:SUM grants, or %s for no grants", none)
	}
	e := Entry{Name: parts[0], Version: parts[1]}
	switch {
	case !namePattern.MatchString(e.Name):
		return Entry{}, fmt.Errorf("name %q does not match %s", e.Name, namePattern)
	case !versionPattern.MatchString(e.Version):
		return Entry{}, fmt.Errorf("version %q is not a semantic version such as 1.0.0", e.Version)
	case !sumPattern.MatchString(parts[2]):
		return Entry{}, errors.New("want sha256: and 64 hexadecimal digits, lower case")
	}
	e.SHA256 = strings.TrimPrefix(parts[2], "sha256:")
	if parts[3] == none {
		return e, nil
	}
	for grant := range strings.SplitSeq(parts[3], ",") {
		if !grantPattern.MatchString(grant) {
			return Entry{}, fmt.Errorf("grant %q is neither a capability nor read:, write: or exec: with an absolute path", grant)
		}
		e.Grants = append(e.Grants, grant)
	}
	return e, nil
}

// Load reads the lock file of a plugins directory. Like a plugin it must belong to
// root or to this user and be writable by nobody else. fs.ErrNotExist where there is
// none.
func Load(dir string) (*File, error) {
	path := filepath.Join(dir, Name)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only: nothing is lost
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at lock file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: its group or everybody may write to it (chmod go-w)", path, mode)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to uid %d, want root or uid %d", path, stat.Uid, os.Geteuid())
	}
	return Parse(f)
}

// Save writes the lock file of a plugins directory in one step: whoever reads it
// meanwhile sees the former or the new one.
func (f *File) Save(dir string) (err error) {
	part, err := os.CreateTemp(dir, ".lock-")
	if err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write lock file: %w", err), os.Remove(part.Name()))
		}
	}()
	_, err = part.Write(f.Format())
	if err == nil {
		err = part.Chmod(0o644)
	}
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	return os.Rename(part.Name(), filepath.Join(dir, Name))
}
