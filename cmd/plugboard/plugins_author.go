package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// addAuthorCommands adds what the author of a plugin works with to the command
// that holds all about plugins.
func addAuthorCommands(parent *cobra.Command) {
	parent.AddCommand(newPluginsNew(), newPluginsRun(), newPluginsDebug())
}

// sdkModule is the module that plugins are written with.
const sdkModule = "github.com/plugboard/plugboard"

// authorName is what a plugin may be called (docs/plugin.md §1).
var authorName = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

func checkAuthorName(name string) error {
	if !authorName.MatchString(name) {
		return usageError{fmt.Sprintf("%q cannot be the name of a plugin: want lower-case letters and digits, a letter first, 32 at most, such as weather", name)}
	}
	return nil
}

// errNoGo is what needs the Go tools fails with where there are none.
var errNoGo = errors.New("the go command is not in the PATH; plugins are built with it, https://go.dev/dl has it")

func findGo() error {
	if _, err := exec.LookPath("go"); err != nil {
		return errNoGo
	}
	return nil
}

// ownCommand is how a person starts this program: by its name where the shell
// finds it, else by its path.
func ownCommand() string {
	if _, err := exec.LookPath("plugboard"); err == nil {
		return "plugboard"
	}
	path, err := os.Executable()
	if err != nil {
		return "plugboard"
	}
	return filepath.Clean(path)
}

// shellQuote is text as one word of a shell's command line.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+,=", r)
	}
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
