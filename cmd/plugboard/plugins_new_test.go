package main

import (
	"bytes"
	"context"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// author runs an author's command in this process, without input.
func author(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	root := &cobra.Command{Use: "plugins", SilenceErrors: true, SilenceUsage: true}
	addAuthorCommands(root)
	root.SetArgs(args)
	root.SetIn(strings.NewReader(""))
	root.SetOut(&out)
	root.SetErr(&errOut)
	if err := root.ExecuteContext(ctx); err != nil {
		report(&errOut, err)
		return exitCode(err), out.String(), errOut.String()
	}
	return exitOK, out.String(), errOut.String()
}

// writePlugin writes a new plugin and returns its directory.
func writePlugin(t *testing.T, name string, flags ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	code, out, errOut := author(t.Context(), append([]string{"new", name, "--dir", dir}, flags...)...)
	if code != exitOK {
		t.Fatalf("plugins new %s: got exit code %d\n%s%s", name, code, out, errOut)
	}
	return dir
}

// inDir runs a program without asking the network for anything.
func inDir(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Every combination builds, is formatted and vetted, passes its own tests and
// answers.
func TestPluginsNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flags    []string
		files    []string
		commands []string
		needs    string
	}{
		{nil, nil, []string{"rain"}, `"capabilities": []`},
		{[]string{"--stream"}, []string{"countdown.go", "countdown_test.go"}, []string{"rain", "rain.countdown"}, `"capabilities": []`},
		{[]string{"--kv"}, []string{"visits.go", "visits_test.go"}, []string{"rain", "rain.visits"}, `"kv"`},
		{
			[]string{"--stream", "--kv"}, []string{"countdown.go", "countdown_test.go", "visits.go", "visits_test.go"},
			[]string{"rain", "rain.countdown", "rain.visits"}, `"kv"`,
		},
	} {
		t.Run("plain"+strings.Join(c.flags, ""), func(t *testing.T) {
			t.Parallel()
			dir := writePlugin(t, "rain", c.flags...)
			got := map[string]bool{}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				got[e.Name()] = true
			}
			want := map[string]bool{}
			for _, name := range append([]string{".gitignore", "Makefile", "README.md", "go.mod", "go.sum", "main.go", "main_test.go"}, c.files...) {
				want[name] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			wantFormatted(t, dir)
			inDir(t, dir, "go", "vet", ".")
			inDir(t, dir, "go", "test", ".") // its last test builds and starts the executable
			inDir(t, dir, "go", "build", "-o", "rain", ".")
			description := inDir(t, dir, "./rain", "describe")
			for _, name := range c.commands {
				if !strings.Contains(description, `"name": "`+name+`"`) {
					t.Errorf("the description has no command %s:\n%s", name, description)
				}
			}
			if !strings.Contains(description, c.needs) {
				t.Errorf("got the description\n%s\nwant %s", description, c.needs)
			}
			if said := inDir(t, dir, "./rain", "run", "rain", `{"name":"Ada"}`); !strings.Contains(said, "Hello Ada") {
				t.Errorf("got %s, want a greeting", said)
			}
		})
	}
}

// wantFormatted checks each Go file of a directory, and that it is under a page.
func wantFormatted(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(text)
		if err != nil || !bytes.Equal(text, formatted) {
			t.Errorf("%s is not formatted: %v", file, err)
		}
		if n := bytes.Count(text, []byte{'\n'}); n > 66 {
			t.Errorf("%s has %d lines, want a page", file, n)
		}
	}
}

func TestPluginsNewSaysWhatIsNext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rain")
	code, out, errOut := author(t.Context(), "new", "rain", "--dir", dir, "--kv", "--module", "example.org/our/rain")
	if code != exitOK || !strings.Contains(out, "with the commands rain, rain.visits.\n\nNext:\n  cd "+dir+"\n") || !strings.Contains(out, "plugins run .\n") {
		t.Errorf("got %d %s, want the commands and what to type", code, out)
	}
	if !strings.Contains(errOut, "go mod tidy in "+dir) {
		t.Errorf("got %s, want what takes time", errOut)
	}
	if mod := fileText(t, filepath.Join(dir, "go.mod")); !strings.HasPrefix(mod, "module example.org/our/rain\n") {
		t.Errorf("got go.mod\n%s\nwant the module that was named", mod)
	}
	code, _, errOut = author(t.Context(), "new", "rain", "--dir", dir)
	if code != exitUsage || !strings.Contains(errOut, "is not empty") {
		t.Errorf("again: got %d %s, want a refusal", code, errOut)
	}
}

func TestPluginsNewRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugin")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"new"}, "takes one argument, for example: plugboard plugins new weather"},
		{[]string{"new", "Rain"}, "lower-case letters and digits"},
		{[]string{"new", "9rain"}, "lower-case letters and digits"},
		{[]string{"new", "ra-in"}, "lower-case letters and digits"},
		{[]string{"new", "../rain"}, "lower-case letters and digits"},
		{[]string{"new", strings.Repeat("r", 33)}, "32 at most"},
		{[]string{"new", "rain", "--module", "no module"}, "--module"},
		{[]string{"new", "rain", "--plugboard", dir}, "has no go.mod of " + sdkModule},
	} {
		code, _, errOut := author(t.Context(), append(c.args, "--dir", dir)...)
		if code != exitUsage || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: got %d %s, want %d and %q", c.args, code, errOut, exitUsage, c.want)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a refusal left a directory behind")
	}
}

func TestPluginsNewWithoutGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rain")
	t.Setenv("PATH", t.TempDir())
	code, _, errOut := author(t.Context(), "new", "rain", "--dir", dir)
	if code != exitFailed || !strings.Contains(errOut, "the go command is not in the PATH") {
		t.Errorf("got %d %s, want to be told", code, errOut)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a plugin was written that nobody can build")
	}
}

// In a module that uses Plugboard the plugin is a package of it, in one of another
// matter a module within.
func TestPluginsNewInAModule(t *testing.T) {
	outer := writePlugin(t, "outer")
	within := filepath.Join(outer, "plugins", "rain")
	code, _, errOut := author(t.Context(), "new", "rain", "--dir", within)
	if code != exitOK || errOut != "" {
		t.Errorf("got %d %s, want it written without a word", code, errOut)
	}
	if _, err := os.Stat(filepath.Join(within, "go.mod")); err == nil {
		t.Error("got a module of its own, want a package of the one around")
	}
	inDir(t, within, "go", "test", ".")
	code, _, errOut = author(t.Context(), "new", "snow", "--dir", filepath.Join(outer, "snow"), "--module", "example.org/snow")
	if code != exitUsage || !strings.Contains(errOut, "uses Plugboard already") {
		t.Errorf("got %d %s, want a refusal of --module", code, errOut)
	}
	writeFile(t, filepath.Join(outer, "go.mod"), "module example.org/other\n\ngo 1.26\n")
	code, _, errOut = author(t.Context(), "new", "hail", "--dir", filepath.Join(outer, "hail"))
	if code != exitOK {
		t.Errorf("got %d %s, want it written", code, errOut)
	}
	if _, err := os.Stat(filepath.Join(outer, "hail", "go.mod")); err != nil {
		t.Errorf("got %v, want a module of its own", err)
	}
}

func TestRelease(t *testing.T) {
	for _, c := range []struct {
		said []string
		want string
	}{
		{[]string{"v1.2.3"}, "v1.2.3"},
		{[]string{"v1.2.3-rc.1"}, "v1.2.3-rc.1"},
		{[]string{"dev", "v0.4.0"}, "v0.4.0"},
		{[]string{"dev", "(devel)"}, ""},
		{[]string{"v1.2.3-4-gabcdef0"}, ""},
		{[]string{"v1.2.3-dirty"}, ""},
		{[]string{"dev", "v0.0.0-20261005182115-fad411399dd8+dirty"}, ""},
	} {
		if got := releaseOf(c.said); got != c.want {
			t.Errorf("%v: got %q, want %q", c.said, got, c.want)
		}
	}
	text, sum, err := module{own: true, path: "example.com/rain", release: "v1.2.3"}.files(t.Context())
	if err != nil || sum != nil || !strings.Contains(string(text), "require "+sdkModule+" v1.2.3\n") || strings.Contains(string(text), "replace") {
		t.Errorf("got %s (%v), want a plain require", text, err)
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{
		"weather": "weather", "/a/b-c.d": "/a/b-c.d", "": "''", `{"a":"b"}`: `'{"a":"b"}'`, "it's": `'it'\''s'`, "$HOME": "'$HOME'", "~/x": "'~/x'",
	} {
		if got := shellQuote(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
		said, err := exec.Command("sh", "-c", "printf %s "+shellQuote(text)).Output()
		if err != nil || string(said) != text {
			t.Errorf("the shell makes %q of %q (%v)", said, text, err)
		}
	}
}

func fileText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
