package sdktest_test

import "os/exec"

// runAlone runs a plugin's executable without a server and returns all it printed.
func runAlone(path string, args ...string) (string, error) {
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}
