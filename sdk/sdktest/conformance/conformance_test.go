package conformance_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/sdk/sdktest/conformance"
)

// bad is a plugin that breaks the contract in ways that its name says.
var bad string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bad = filepath.Join(dir, "bad")
	if out, err := exec.Command("go", "build", "-o", bad, "../../../core/pluginhost/testplugin").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build testplugin: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// TestEachBreachFailsTheCheckThatNamesIt: a suite that lets everything pass proves
// nothing.
func TestEachBreachFailsTheCheckThatNamesIt(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"exits":   {"handshake", "description"},
		"tcp":     {"handshake", "description"},
		"liar":    {"description"},
		"deaf":    {"drain", "lifeline", "by-hand"},
		"grabby":  {"lifeline"}, // what the test plugin lacks under any name
		"unknown": {"lifeline"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), name)
			if err := os.Link(bad, path); err != nil {
				t.Fatal(err)
			}
			var printed bytes.Buffer
			var told int
			r, err := conformance.Run(t.Context(), conformance.Options{Path: path, Output: &printed, OnCheck: func(conformance.Check) { told++ }})
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() || told != len(r.Checks) {
				t.Errorf("got %s, %d checks told", r.Summary(), told)
			}
			for _, c := range r.Checks {
				if c.Outcome == conformance.Fail && !slices.Contains(want, c.ID) {
					t.Errorf("%s fails a check that it should pass: %s", name, c)
				}
			}
			if !slices.ContainsFunc(r.Checks, func(c conformance.Check) bool { return c.Outcome == conformance.Fail && c.ID == want[0] }) {
				t.Errorf("%s does not fail %s:\n%v", name, want[0], r.Checks)
			}
			var table bytes.Buffer
			if err := r.Table(&table); err != nil || !strings.HasSuffix(table.String(), r.Summary()+"\n") {
				t.Errorf("got %v and the table\n%s", err, table.String())
			}
			if raw, err := json.Marshal(r); err != nil || !bytes.Contains(raw, []byte(`"outcome":"fail"`)) {
				t.Errorf("got %s, %v", raw, err)
			}
		})
	}
}

func TestWhatIsNoExecutable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, t.TempDir(), "/no/such/file"} {
		if _, err := conformance.Run(t.Context(), conformance.Options{Path: path}); err == nil {
			t.Errorf("%s was checked", path)
		}
	}
}
