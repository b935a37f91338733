package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// source is what a plugin is made of: a Go package, a directory with a shell command
// that builds it, or an executable file as it is.
type source struct {
	dir     string // absolute
	command string // of the shell, or ""
	file    string // absolute, or "": then dir is its directory
}

func findSource(path, command string) (source, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return source{}, fmt.Errorf("find plugin: %w", err)
	}
	// Watched paths are compared, so all of them must be spelled one way.
	if absolute, err = filepath.EvalSymlinks(absolute); err != nil {
		return source{}, usageError{fmt.Sprintf("DIR: %v", err)}
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return source{}, usageError{fmt.Sprintf("DIR: %v", err)}
	}
	isGo, _ := filepath.Glob(filepath.Join(absolute, "*.go")) // the pattern is good
	switch {
	case info.IsDir() && command != "":
		return source{dir: absolute, command: command}, nil
	case info.IsDir() && len(isGo) > 0:
		return source{dir: absolute}, findGo()
	case info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 && command == "":
		return source{dir: filepath.Dir(absolute), file: absolute}, nil
	case info.Mode().IsRegular() && command != "":
		return source{}, usageError{"--build runs in a directory, but DIR is a file"}
	}
	return source{}, usageError{fmt.Sprintf("%s is neither a Go package nor an executable file; --build says how a plugin is made of a directory", path)}
}

// artifact is a plugin that was built and not put in place yet.
type artifact struct {
	path, sum string
	name      string
	needs     []string // nil where it does not tell
}

// make builds to the path out and asks the result for its name, unless that was
// given. What the compiler says goes to log.
func (s source) make(ctx context.Context, out, name string, log io.Writer) (*artifact, error) {
	// What is not written must not be taken for new.
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove former build: %w", err)
	}
	if err := s.build(ctx, out, log); err != nil {
		return nil, err
	}
	made := &artifact{path: out}
	var err error
	if made.sum, err = s.check(out); err != nil {
		return nil, err
	}
	said, err := describeItself(ctx, out)
	if err != nil {
		return nil, err
	}
	made.name, made.needs = said.Name, said.Capabilities
	switch {
	case name != "":
		made.name = name
	case made.name == "" && s.file != "":
		made.name = strings.TrimSuffix(filepath.Base(s.file), filepath.Ext(s.file))
	case made.name == "":
		made.name = filepath.Base(s.dir)
	}
	if !authorName.MatchString(made.name) {
		return nil, fmt.Errorf("%q cannot be the name of a plugin; --name gives it another", made.name)
	}
	return made, nil
}

func (s source) build(ctx context.Context, out string, log io.Writer) error {
	switch {
	case s.file != "":
		return copyExecutable(s.file, out)
	case s.command != "":
		cmd := groupCommand(ctx, s.dir, log, "sh", "-c", s.command)
		cmd.Env = append(os.Environ(), "PLUGIN_OUT="+out)
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("--build: %w", err)
		}
		return nil
	}
	cmd := groupCommand(ctx, s.dir, log, "go", "build", "-o", out, ".")
	cmd.Env = s.goEnv()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return nil
}

// goEnv leaves cgo out where nobody asked for it: a static plugin runs in a sandbox
// as it is.
func (s source) goEnv() []string {
	if _, said := os.LookupEnv("CGO_ENABLED"); said {
		return os.Environ()
	}
	return append(os.Environ(), "CGO_ENABLED=0")
}

// groupCommand is a command that ends, with all that it started, when ctx does.
func groupCommand(ctx context.Context, dir string, log io.Writer, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// check makes what was built fit for the server, which runs no file that others may
// write, and hashes it.
func (s source) check(out string) (sum string, err error) {
	info, err := os.Stat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", errors.New("the build wrote nothing to $PLUGIN_OUT")
	case err != nil:
		return "", fmt.Errorf("look at the build: %w", err)
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return "", fmt.Errorf("what %s builds is no executable file; is it a package main?", s.dir)
	}
	if err := os.Chmod(out, 0o700); err != nil { //nolint:gosec // it is to be executed
		return "", fmt.Errorf("prepare the build: %w", err)
	}
	f, err := os.Open(out)
	if err != nil {
		return "", fmt.Errorf("hash the build: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("hash the build: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// copyExecutable keeps forks away while the copy is open for writing: a child that
// holds it until it execs would make starting the copy fail, "text file busy".
func copyExecutable(from, to string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o700) //nolint:gosec // it is to be executed
	}
	if err != nil {
		return fmt.Errorf("copy plugin: %w", err)
	}
	return nil
}

// selfDescription is the part of what a plugin says of itself that is of use here.
type selfDescription struct {
	Name         string   `json:"name"`
	Capabilities []string `json:"capabilities"`
}

// wrongPlugin is the exit code of a plugin of package sdk that describes itself
// wrongly.
const wrongPlugin = 3

// describeItself asks a plugin what package sdk has every plugin answer. One that is
// made otherwise says nothing, which is no error.
func describeItself(ctx context.Context, path string) (said selfDescription, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := groupCommand(ctx, filepath.Dir(path), nil, path, "describe")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == wrongPlugin:
		return said, errors.New(strings.TrimSpace(errOut.String()))
	case err != nil || json.Unmarshal(out.Bytes(), &said) != nil:
		return selfDescription{}, nil
	}
	return said, nil
}

// packages are the directories of all packages that a Go plugin is built of and
// that somebody may be editing: those of its module and of modules that are
// replaced by a directory.
func (s source) packages(ctx context.Context) []string {
	if s.file != "" || s.command != "" {
		return nil
	}
	const local = `{{if and .Module (not .Standard)}}{{if or .Module.Main (and .Module.Replace (not .Module.Replace.Version))}}{{.Dir}}{{end}}{{end}}`
	list := groupCommand(ctx, s.dir, nil, "go", "list", "-e", "-deps", "-f", local, ".")
	list.Env = s.goEnv()
	out, err := list.Output()
	if err != nil {
		return nil // the build tells better what is wrong
	}
	return slices.DeleteFunc(strings.Split(string(out), "\n"), func(dir string) bool { return dir == "" })
}
