package core_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/plugboard/plugboard"

// floors is the house, executable: every package with what it may import of ours.
// A pattern ending in /... means a folder and everything below it. The sources
// are parsed here and not by "go list", whose answer the test cache would keep.
var floors = []struct {
	pkg string
	may []string
}{
	{"sdk/fault", nil},
	{"sdk/wire", []string{"sdk/fault"}},
	{"sdk/e2ee", []string{"sdk/fault", "sdk/wire"}},
	{"sdk/pluginpb", []string{"sdk/fault"}},
	{"config", floor0},

	{"core", floor0},
	{"core/limit", floor0},
	{"core/lifetime", floor0},
	{"core/telemetry", floor0},

	{"core/hub", floor1},
	{"core/store/...", floor1},
	{"core/pluginhost/hostsvc", floor1},
	{"core/pluginhost/sandbox/...", floor1},
	{"core/pluginhost/lockfile", floor1},
	{"core/pluginhost/testplugin/...", []string{"sdk/..."}}, // plugins, built by the tests

	{"core/store", append([]string{"core/store/..."}, floor1...)},
	{"core/identity", floor2},
	{"core/pipeline", floor2},
	{"core/router", floor2},
	{"core/command", floor2},
	{"core/delivery", floor2},
	{"core/pluginhost", floor2},

	{"core/transport", floor2},
	{"core/admin", floor2},

	{"core/server", []string{"core/...", "config", "core", "sdk/..."}},

	{"sdk", []string{"sdk/..."}},
	{"sdk/client/...", []string{"sdk/...", "sdk"}},
	{"sdk/sdktest/...", []string{"sdk/...", "sdk"}},
	{"plugins/...", []string{"sdk/...", "sdk"}},
	{"examples/...", []string{"sdk/...", "sdk"}},
	{"cmd/...", []string{"core/...", "core", "sdk/...", "sdk", "config", "plugins/...", "cmd/..."}},
}

var (
	floor0 = []string{"sdk/fault", "sdk/wire", "sdk/e2ee", "sdk/pluginpb"}
	floor1 = append([]string{"core", "core/limit", "core/lifetime", "core/telemetry"}, floor0...)
	floor2 = append([]string{"core/hub", "core/pluginhost/hostsvc", "core/pluginhost/sandbox", "core/pluginhost/lockfile"}, floor1...)
)

// mayInit are packages with a func init(), each with its reason in its source.
var mayInit = []string{"core/pluginhost/sandbox"}

// testOnly are libraries that users of the module must not get with it.
var testOnly = []string{
	"github.com/stretchr/testify", "go.uber.org/goleak", "pgregory.net/rapid", "github.com/google/go-cmp", "github.com/rogpeppe/go-internal",
}

// forTests are packages that exist for tests and may import what tests do.
var forTests = []string{"core/store/storetest", "sdk/sdktest/..."}

func covers(pattern, pkg string) bool {
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == root || strings.HasPrefix(pkg, root+"/")
	}
	return pkg == pattern
}

// placeOf finds a package's row: an exact one before a folder's, a longer before
// a shorter.
func placeOf(pkg string) (may []string, ok bool) {
	best := -1
	for _, f := range floors {
		rank := len(f.pkg)
		if f.pkg == pkg {
			rank = 1 << 20
		}
		if covers(f.pkg, pkg) && rank > best {
			may, ok, best = f.may, true, rank
		}
	}
	return may, ok
}

// source is one Go file of the module, outside testdata.
type source struct {
	name, pkg string // relative to the module's root
	file      *ast.File
	imports   []string
}

func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	set := token.NewFileSet()
	walk := func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root {
			if base == "testdata" || base == "node_modules" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil {
				return filepath.SkipDir // a module of its own
			}
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("parse %s: %v", relative, err)
			return nil
		}
		s := source{name: filepath.ToSlash(relative), pkg: path.Dir(filepath.ToSlash(relative)), file: file}
		for _, i := range file.Imports {
			text, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return fmt.Errorf("import in %s: %w", relative, err)
			}
			s.imports = append(s.imports, text)
		}
		all = append(all, s)
		return nil
	}
	if err := filepath.WalkDir(root, walk); err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("got %d sources below %s, want the whole module", len(all), root)
	}
	return all
}

func isTest(s source) bool { return strings.HasSuffix(s.name, "_test.go") }

// breaches are what one file does that its floor does not allow.
func breaches(s source) []string {
	var found []string
	may, placed := placeOf(s.pkg)
	if !placed && (strings.HasPrefix(s.pkg, "core/") || strings.HasPrefix(s.pkg, "sdk/")) {
		return []string{"package " + s.pkg + " has no place in the table of floors"}
	}
	if isTest(s) {
		return nil
	}
	for _, i := range s.imports {
		own, ours := strings.CutPrefix(i, module+"/")
		outside := strings.HasPrefix(s.pkg, "sdk") || strings.HasPrefix(s.pkg, "plugins") || strings.HasPrefix(s.pkg, "examples")
		switch {
		case ours && outside && covers("core/...", own):
			found = append(found, "imports "+own+": what outsiders use never imports core")
		case ours && placed && !slices.ContainsFunc(may, func(p string) bool { return covers(p, own) }):
			found = append(found, "imports "+own+", which is not below it")
		}
		if slices.ContainsFunc(testOnly, func(l string) bool { return covers(l+"/...", i) }) &&
			!slices.ContainsFunc(forTests, func(p string) bool { return covers(p, s.pkg) }) && placed {
			found = append(found, "imports "+i+", which is for tests")
		}
		if i == "log" && s.pkg != "core/transport" && placed { // transport: http.Server.ErrorLog wants one
			found = append(found, `imports "log"; loggers are passed in`)
		}
		if covers("core/store/storetest", own) || covers("sdk/sdktest/...", own) && strings.HasPrefix(s.pkg, "core") {
			found = append(found, "imports "+own+", which is for tests")
		}
	}
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		generated := strings.HasSuffix(s.name, ".pb.go")
		if ok && f.Recv == nil && f.Name.Name == "init" && !generated && placed && !slices.Contains(mayInit, s.pkg) {
			found = append(found, "declares func init(); wiring is written out")
		}
	}
	return found
}

// TestFloors holds every file of the module against the rule that imports go
// strictly down.
func TestFloors(t *testing.T) {
	for _, s := range sources(t) {
		for _, b := range breaches(s) {
			t.Errorf("%s %s", s.name, b)
		}
	}
}

// TestFloorsRefuse shows that the rule can fail.
func TestFloorsRefuse(t *testing.T) {
	for _, c := range []struct {
		name, code string
	}{
		{"core/router/x.go", `import "github.com/plugboard/plugboard/core/delivery"`},
		{"core/transport/x.go", `import "github.com/plugboard/plugboard/core/pipeline"`},
		{"core/store/sqlite/x.go", `import "github.com/plugboard/plugboard/core/hub"`},
		{"core/identity/x.go", `import "github.com/plugboard/plugboard/config"`},
		{"core/x.go", `import "github.com/plugboard/plugboard/core/hub"`},
		{"sdk/x.go", `import "github.com/plugboard/plugboard/core"`},
		{"sdk/fault/x.go", `import "github.com/plugboard/plugboard/sdk/wire"`},
		{"plugins/ping/x.go", `import "github.com/plugboard/plugboard/core/limit"`},
		{"config/x.go", `import "github.com/plugboard/plugboard/core"`},
		{"core/hub/x.go", `import "go.uber.org/goleak"`},
		{"core/hub/x.go", `import "github.com/google/go-cmp/cmp"`},
		{"core/hub/x.go", `import "log"`},
		{"core/hub/x.go", `func init() {}`},
		{"core/cellar/x.go", ``},
		{"core/server/x.go", `import "github.com/plugboard/plugboard/core/store/storetest"`},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), c.name, "package x\n"+c.code, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		s := source{name: c.name, pkg: path.Dir(c.name), file: file}
		for _, i := range file.Imports {
			text, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			s.imports = append(s.imports, text)
		}
		if got := breaches(s); len(got) != 1 {
			t.Errorf("%s with %q: got breaches %q, want one", c.name, c.code, got)
		}
	}
}
