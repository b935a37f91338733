package plugins_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/plugboard/plugboard/sdk/sdktest"
)

// TestDice bundles the plugin in JavaScript, holds it against the contract, and calls
// it.
func TestDice(t *testing.T) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("*** SKIPPED: there is no %s here, so the plugin in JavaScript is NOT tested ***", tool)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"plugin.mjs", "package.json", "package-lock.json"} {
		raw, err := os.ReadFile(filepath.Join("dice", name))
		if err != nil {
			t.Fatal(err)
		}
		// As deep as in the repository, so that the contract is found.
		at := filepath.Join(dir, "examples", "plugins", "dice", name)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sdk, err := filepath.Abs("../../sdk")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sdk, filepath.Join(dir, "sdk")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"ci", "--no-audit", "--no-fund", "--silent"}, {"run", "--silent", "build"}} {
		cmd := exec.CommandContext(t.Context(), "npm", args...)
		cmd.Dir = filepath.Join(dir, "examples", "plugins", "dice")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm %v: %v\n%s", args, err, out)
		}
	}
	path := filepath.Join(dir, "examples", "plugins", "dice", "dist", "dice")
	sdktest.Verify(t, path, nil)
	in := sdktest.StartProcess(t, path)
	got, err := in.Call(t.Context(), "dice", map[string]int{"sides": 2})
	if err != nil || string(got) != `{"thrown":1}` && string(got) != `{"thrown":2}` {
		t.Errorf("got %s, %v", got, err)
	}
	parts := 0
	if _, err := in.Call(t.Context(), "dice.six", map[string]int{"sides": 1000}, sdktest.OnProgress(func(sdktest.Progress) { parts++ })); err != nil || parts == 0 {
		t.Errorf("got %v after %d parts", err, parts)
	}
}
