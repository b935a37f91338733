package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

//go:embed scaffold/*.tmpl
var scaffoldFiles embed.FS

func newPluginsNew() *cobra.Command {
	var s scaffold
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a plugin that builds, with its test",
		Long: `Write a directory NAME with a plugin that builds and passes its tests right away:
a command of the same name, and with --stream and --kv one more each.

The directory is a module of its own, unless it lies in a module that uses
` + sdkModule + ` already. A plugboard that was built from
sources which are still there has the module use those; --plugboard names others.`,
		Example: `  plugboard plugins new weather
  plugboard plugins new weather --stream --kv --module example.org/weather
  plugboard plugins new weather --dir plugins/weather --plugboard ~/src/plugboard`,
		Args: args(1, 1, "plugins new weather"),
	}
	f := cmd.Flags()
	f.BoolVar(&s.Stream, "stream", false, "add a command that tells its progress")
	f.BoolVar(&s.KV, "kv", false, "add a command that keeps state in the server's store")
	f.StringVar(&s.dir, "dir", "", "directory to write, new or empty (default NAME)")
	f.StringVar(&s.module, "module", "", "path of the new module (default example.com/NAME)")
	f.StringVar(&s.sources, "plugboard", "", "directory of the Plugboard sources to build with")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		s.Name, s.SDK, s.Homepage = given[0], sdkModule+"/sdk", "https://"+sdkModule
		return s.write(cmd)
	}
	return cmd
}

// scaffold is a plugin to be written. The exported fields are for the templates.
type scaffold struct {
	Name          string
	Stream, KV    bool
	SDK, Homepage string

	dir     string
	module  string
	sources string
}

// write checks everything first, so that a refusal leaves nothing behind.
func (s *scaffold) write(cmd *cobra.Command) error {
	if err := checkAuthorName(s.Name); err != nil {
		return err
	}
	if s.dir == "" {
		s.dir = s.Name
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return fmt.Errorf("find directory: %w", err)
	}
	if err := checkEmpty(dir); err != nil {
		return err
	}
	mod, err := s.plan(dir)
	if err != nil {
		return err
	}
	if err := findGo(); err != nil && mod.own {
		return err
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := writeNew(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	if err := mod.settle(cmd.Context(), dir, cmd.ErrOrStderr()); err != nil {
		return err
	}
	return s.tell(cmd.OutOrStdout())
}

// checkEmpty refuses to write where something is.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(entries) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("look at directory: %w", err)
	}
	return usageError{fmt.Sprintf("%s is not empty; --dir names another directory", dir)}
}

// plan decides which module the directory belongs to, and what that needs.
func (s *scaffold) plan(dir string) (module, error) {
	around, err := enclosingModule(dir)
	if err != nil {
		return module{}, err
	}
	if around != "" {
		if s.module != "" || s.sources != "" {
			return module{}, usageError{fmt.Sprintf("the directory lies in the module of %s, which uses Plugboard already: --module and --plugboard do not fit", around)}
		}
		return module{around: around}, nil
	}
	path := s.module
	if path == "" {
		path = "example.com/" + s.Name
	}
	return ownModule(path, s.sources)
}

// files are the texts by name.
func (s *scaffold) files() (map[string][]byte, error) {
	all, err := template.ParseFS(scaffoldFiles, "scaffold/*.tmpl")
	if err != nil {
		return nil, fmt.Errorf("read templates: %w", err)
	}
	out := make(map[string][]byte)
	for _, t := range all.Templates() {
		name := strings.TrimSuffix(t.Name(), ".tmpl")
		switch {
		case strings.HasPrefix(name, "countdown") && !s.Stream, strings.HasPrefix(name, "visits") && !s.KV:
			continue
		case name == "gitignore":
			name = ".gitignore"
		}
		var text bytes.Buffer
		if err := t.Execute(&text, s); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		out[name] = text.Bytes()
		if strings.HasSuffix(name, ".go") {
			if out[name], err = format.Source(out[name]); err != nil {
				return nil, fmt.Errorf("format %s: %w", name, err)
			}
		}
	}
	return out, nil
}

// writeNew writes a file of sources, which are nobody's secret, and never over
// another.
func writeNew(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // see above
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // see above
	if err != nil {
		return fmt.Errorf("write plugin: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write plugin: %w", err)
	}
	return nil
}

// tell says what there is now and what to type next.
func (s *scaffold) tell(w io.Writer) error {
	commands := []string{s.Name}
	if s.Stream {
		commands = append(commands, s.Name+".countdown")
	}
	if s.KV {
		commands = append(commands, s.Name+".visits")
	}
	test := "make test"
	if _, err := exec.LookPath("make"); err != nil {
		test = "go test ."
	}
	_, err := fmt.Fprintf(w, "%s holds a plugin with %s %s.\n\nNext:\n  cd %s\n  %s\n  %s plugins run .\n",
		s.dir, plural(uint64(len(commands)), "the command"), strings.Join(commands, ", "), shellQuote(s.dir), test, shellQuote(ownCommand()))
	return err
}
