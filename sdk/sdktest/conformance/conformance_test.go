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

// bad is a plugin that breaks the one rule of the contract that its name says.
var bad string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bad = filepath.Join(dir, "bad")
	if out, err := exec.Command("go", "build", "-o", bad, "./testdata/bad").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build bad: %v\n%s", err, out)
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
	for name, want := range map[string]string{
		"nohandshake": "handshake",
		"protocoltwo": "handshake",
		"elsewhere":   "handshake",
		"plaintext":   "description",
		"misnamed":    "description",
		"unversioned": "description",
		"badschema":   "schemas",
		"badexample":  "schemas",
		"wrongresult": "examples",
		"idless":      "examples",
		"eager":       "unknown-command",
		"unknowing":   "unknown-command",
		"fragile":     "bad-params",
		"afterwards":  "progress",
		"overdone":    "progress",
		"garbled":     "progress",
		"uncancelled": "cancel",
		"crowded":     "concurrency",
		"forgetful":   "pipelining",
		"narrow":      "large-params",
		"strict":      "unknown-message",
		"wrongnonce":  "ping",
		"entitled":    "ungranted",
		"mortal":      "signals",
		"alone":       "side-by-side",
		"twice":       "drain",
		"ghost":       "drain",
		"hasty":       "drain",
		"grumpy":      "drain",
		"lingers":     "drain",
		"stays":       "stop",
		"forks":       "stop",
		"orphan":      "lifeline",
		"waits":       "by-hand",
		// What a server takes without harm.
		"keeps": "",
		"noisy": "",
		"lax":   "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), name)
			if err := os.Link(bad, path); err != nil {
				t.Fatal(err)
			}
			var printed, table bytes.Buffer
			var told int
			o := conformance.Options{Path: path, Output: &printed, OnCheck: func(conformance.Check) { told++ }}
			if want != "" {
				o.Only = []string{want}
			}
			r, err := conformance.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() != (want == "") || told != len(r.Checks) {
				t.Errorf("got %s, %d checks told", r.Summary(), told)
			}
			if want != "" && !slices.ContainsFunc(r.Checks, func(c conformance.Check) bool { return c.Outcome == conformance.Fail && c.ID == want }) {
				t.Errorf("%s does not fail %s:\n%v", name, want, r.Checks)
			}
			if err := r.Table(&table); err != nil || !strings.HasSuffix(table.String(), r.Summary()+"\n") {
				t.Errorf("got %v and the table\n%s", err, table.String())
			}
			if raw, err := json.Marshal(r); err != nil || bytes.Contains(raw, []byte(`"outcome":"fail"`)) != (want != "") {
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
	if _, err := conformance.Run(t.Context(), conformance.Options{Path: bad, Only: []string{"taste"}}); err == nil || !strings.Contains(err.Error(), "by-hand") {
		t.Errorf("got %v, want the checks that there are", err)
	}
	for _, path := range []string{file, t.TempDir(), "/no/such/file"} {
		if _, err := conformance.Run(t.Context(), conformance.Options{Path: path}); err == nil {
			t.Errorf("%s was checked", path)
		}
	}
}
