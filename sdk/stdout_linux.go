package sdk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// divertStdout makes descriptor 1 another name of standard error, for everything
// that writes there without asking os.Stdout: C code, child processes, a log package
// set up earlier. The handshake line, which go-plugin prints to os.Stdout, goes to
// the real one.
func divertStdout() error {
	stdout, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("divert standard output: %w", err)
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return fmt.Errorf("divert standard output: %w", err)
	}
	os.Stdout = os.NewFile(uintptr(stdout), "/dev/stdout")
	return nil
}
