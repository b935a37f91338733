package main

import (
	"context"
	"errors"
	"fmt"
	goversion "go/version"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/mod/modfile"
	modpath "golang.org/x/mod/module"
)

// module is what a new plugin's directory belongs to.
type module struct {
	// around is the go.mod above the directory, of a module that uses Plugboard; the
	// rest is empty then.
	around string

	own     bool
	path    string
	sources string // directory of the Plugboard sources, or
	release string // the version of a release
}

// enclosingModule is the go.mod that rules dir, if its module is Plugboard or
// requires it, else "".
func enclosingModule(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		file := filepath.Join(at, "go.mod")
		parsed, err := readMod(file)
		switch {
		case err == nil:
			if usesSDK(parsed) {
				return file, nil
			}
			return "", nil // a module of another matter: ours lies within it as one of its own
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		if at == filepath.Dir(at) {
			return "", nil
		}
	}
}

func readMod(file string) (*modfile.File, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	parsed, err := modfile.ParseLax(file, data, nil)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	if parsed.Module == nil {
		return nil, fmt.Errorf("read module: %s names none", file)
	}
	return parsed, nil
}

func usesSDK(f *modfile.File) bool {
	if f.Module.Mod.Path == sdkModule {
		return true
	}
	for _, r := range f.Require {
		if r.Mod.Path == sdkModule {
			return true
		}
	}
	return false
}

// ownModule plans a module that builds against named sources, those this program
// was built from, or its release.
func ownModule(path, named string) (module, error) {
	if err := modpath.CheckPath(path); err != nil {
		return module{}, usageError{fmt.Sprintf("--module: %v", err)}
	}
	m := module{own: true, path: path}
	switch {
	case named != "":
		dir, err := filepath.Abs(named)
		if err != nil {
			return module{}, fmt.Errorf("find sources: %w", err)
		}
		if !isSourceTree(dir) {
			return module{}, usageError{fmt.Sprintf("--plugboard: %s has no go.mod of %s", dir, sdkModule)}
		}
		m.sources = dir
	default:
		m.sources, m.release = sourceTree(), releaseOf(ownVersions())
		if m.sources == "" && m.release == "" {
			return module{}, usageError{"this plugboard is no release, and the sources that it was built from are not there any more; --plugboard names the directory of others"}
		}
	}
	return m, nil
}

// ownVersions is what this program calls itself, and what the Go tools noted of it.
func ownVersions() []string {
	said := []string{version}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Path == sdkModule {
		said = append(said, info.Main.Version)
	}
	return said
}

// released is the version of a release, but no state of the sources after one, as
// git describe and the Go tools write it.
var released = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(alpha|beta|rc)[.]?\d*)?$`)

func releaseOf(said []string) string {
	for _, v := range said {
		if released.MatchString(v) {
			return v
		}
	}
	return ""
}

// sourceTree is where the sources are that this program was built from, or "".
// A copy in the module cache is none: it goes by its version.
func sourceTree() string {
	var starts []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) { // not with -trimpath
		starts = append(starts, filepath.Dir(file))
	}
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			starts = append(starts, filepath.Dir(exe))
		}
	}
	for _, start := range starts {
		for at := start; !strings.Contains(at, "@"); at = filepath.Dir(at) {
			if isSourceTree(at) {
				return at
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return ""
}

func isSourceTree(dir string) bool {
	parsed, err := readMod(filepath.Join(dir, "go.mod"))
	return err == nil && parsed.Module.Mod.Path == sdkModule
}

// settle writes go.mod and has the Go tools complete it; where the module was there
// before, it says what that still lacks.
func (m module) settle(ctx context.Context, dir string, progress io.Writer) error {
	if !m.own {
		return m.check(ctx, dir, progress)
	}
	text, sum, err := m.files(ctx)
	if err != nil {
		return err
	}
	if err := writeNew(filepath.Join(dir, "go.mod"), text); err != nil {
		return err
	}
	if len(sum) > 0 {
		if err := writeNew(filepath.Join(dir, "go.sum"), sum); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(progress, "go mod tidy in %s\n", dir) // what is said beside is no result
	tidy := exec.CommandContext(ctx, "go", "mod", "tidy")
	tidy.Dir, tidy.Stdout, tidy.Stderr = dir, progress, progress
	tidy.Env = append(os.Environ(), "GOWORK=off")
	if err := tidy.Run(); err != nil {
		return fmt.Errorf("the plugin is written, but its module is not complete: go mod tidy: %w; run that again in %s", err, dir)
	}
	return tellWorkspace(ctx, dir, progress)
}

// tellWorkspace warns of a go.work above: the Go tools refuse a module that it does
// not name.
func tellWorkspace(ctx context.Context, dir string, progress io.Writer) error {
	env := exec.CommandContext(ctx, "go", "env", "GOWORK")
	env.Dir = dir
	out, err := env.Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	if work := strings.TrimSpace(string(out)); work != "" && work != "off" {
		_, _ = fmt.Fprintf(progress, "%s must know the new module: go work use %s\n", work, shellQuote(dir))
	}
	return nil
}

// files are go.mod, and what is known of go.sum. Sources bring the versions that
// they are built with, so nothing has to be looked up.
func (m module) files(ctx context.Context) (text, sum []byte, err error) {
	f := new(modfile.File)
	if err := f.AddModuleStmt(m.path); err != nil {
		return nil, nil, fmt.Errorf("write go.mod: %w", err)
	}
	if m.sources == "" {
		tools, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
		if err != nil {
			return nil, nil, fmt.Errorf("go env: %w", err)
		}
		lang := strings.TrimPrefix(goversion.Lang(strings.TrimSpace(string(tools))), "go")
		err = errors.Join(f.AddGoStmt(lang), f.AddRequire(sdkModule, m.release))
		if err != nil {
			return nil, nil, fmt.Errorf("write go.mod: %w", err)
		}
		return modfile.Format(f.Syntax), nil, nil
	}
	theirs, err := readMod(filepath.Join(m.sources, "go.mod"))
	if err != nil {
		return nil, nil, err
	}
	if theirs.Go != nil {
		err = f.AddGoStmt(theirs.Go.Version)
	}
	const unpublished = "v0.0.0-00010101000000-000000000000"
	err = errors.Join(err, f.AddRequire(sdkModule, unpublished), f.AddReplace(sdkModule, "", m.sources, ""))
	for _, r := range theirs.Require {
		f.AddNewRequire(r.Mod.Path, r.Mod.Version, true)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write go.mod: %w", err)
	}
	f.Cleanup()
	if sum, err = os.ReadFile(filepath.Join(m.sources, "go.sum")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read go.sum of the sources: %w", err)
	}
	return modfile.Format(f.Syntax), sum, nil
}

// check asks the Go tools whether the module around has all that the plugin needs.
func (m module) check(ctx context.Context, dir string, progress io.Writer) error {
	list := exec.CommandContext(ctx, "go", "list", "-deps", "-test", ".")
	list.Dir = dir
	if out, err := list.CombinedOutput(); err != nil && findGo() == nil {
		_, _ = fmt.Fprintf(progress, "%s\nthe module of %s is not complete: run go mod tidy there\n", strings.TrimSpace(string(out)), m.around)
	}
	return nil
}
