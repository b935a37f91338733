package sdk_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme builds the plugin of README.md with everything else that is shown
// there, and runs the test that stands there.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	snippets := "package main\n\nimport (\n\"context\"\n\"encoding/binary\"\n\"errors\"\n\"time\"\n\n\"github.com/plugboard/plugboard/sdk\"\n)\n"
	files := map[string]string{}
	for _, block := range strings.Split(string(raw), "```go\n")[1:] {
		code, _, closed := strings.Cut(block, "```")
		switch {
		case !closed:
			t.Fatal("README.md: a code block is not closed")
		case !strings.HasPrefix(code, "package "):
			snippets += code
		case strings.Contains(code, `"testing"`):
			files["main_test.go"] = code
		default:
			files["main.go"] = code
		}
	}
	files["snippets.go"] = snippets + "\nvar _, _ = raise, remind\n"
	args := []string{"test"}
	for _, name := range []string{"main.go", "snippets.go", "main_test.go"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(files[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Errorf("go test: %v\n%s", err, out)
	}
}
