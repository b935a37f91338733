package lockfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
)

var sum = strings.Repeat("0a", 32)

const header = "# plugboard plugins.lock v1\n"

func TestRoundTrip(t *testing.T) {
	text := header + "echo 1.0.0 sha256:" + sum + " -\nweather 1.2.0-rc.1+x sha256:" + sum + " exec:/usr/bin/node,kv,net\n"
	f, err := lockfile.Parse(strings.NewReader(header + "\n# reviewed\nweather 1.2.0-rc.1+x sha256:" + sum + " net,kv,exec:/usr/bin/node\r\necho 1.0.0 sha256:" + sum + " -"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, string(f.Format())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	dir := t.TempDir()
	if err := f.Save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := lockfile.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(text, string(again.Format())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e, ok := again.Find("weather"); !ok || e.Version != "1.2.0-rc.1+x" || len(e.Grants) != 3 {
		t.Errorf("got %+v, %v", e, ok)
	}
	if !again.Remove("echo") || again.Remove("echo") || len(again.Entries()) != 1 {
		t.Errorf("got %v after the removal", again.Entries())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v, want the file alone", left, err)
	}
}

func TestRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "line 1",
		"# something else\n":  "line 1",
		header + "echo 1.0.0": "line 2: want four words",
		header + "Echo 1.0.0 sha256:" + sum + " -":                  `line 2: name "Echo"`,
		header + "echo 1,0 sha256:" + sum + " -":                    "line 2: version",
		header + "echo 1.0.0 sha256:" + sum[1:] + " -":              "64 hexadecimal digits",
		header + "echo 1.0.0 " + sum + " -":                         "want sha256:",
		header + "echo 1.0.0 sha256:" + sum + " kv,,net":            `grant ""`,
		header + "echo 1.0.0 sha256:" + sum + " read:relative":      "absolute path",
		header + strings.Repeat("echo 1.0.0 sha256:"+sum+" -\n", 2): "line 3: plugin \"echo\" stands twice",
		header + strings.Repeat("#", 1<<20):                         "more than",
	} {
		if _, err := lockfile.Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
	var f lockfile.File
	if err := f.Set(lockfile.Entry{Name: "a", Version: "1.0.0", SHA256: sum, Grants: []string{"kv", "x y"}}); err == nil {
		t.Error("an entry that could not be read again was taken")
	}
}

func TestLoadTrustsItsOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	if _, err := lockfile.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want that there is none", err)
	}
	path := filepath.Join(dir, lockfile.Name)
	if err := os.WriteFile(path, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o664); err != nil { // that is the test
		t.Fatal(err)
	}
	if _, err := lockfile.Load(dir); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("got %v, want the mode refused", err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12345, -1)); err != nil {
			t.Fatal(err)
		}
		if _, err := lockfile.Load(dir); err == nil || !strings.Contains(err.Error(), "uid 12345") {
			t.Errorf("got %v, want the owner refused", err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := lockfile.Load(dir); err == nil {
		t.Error("a directory was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + "echo 1.0.0 sha256:" + sum + " kv,read:/etc/x\n"))
	f.Add([]byte(header))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := lockfile.Parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := lockfile.Parse(bytes.NewReader(file.Format()))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if diff := cmp.Diff(file.Format(), again.Format()); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}
