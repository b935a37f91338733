//go:build !linux

package sandbox

// self is never started here.
const self = ""

// Detect says what this machine can enforce: nothing.
func Detect() Support {
	return Support{Level: None, Missing: []string{"everything: only Linux has what confines a plugin"}}
}
