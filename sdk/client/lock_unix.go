//go:build unix

package client

import (
	"fmt"
	"os"
	"syscall"
)

// lockFile takes the advisory lock that guards changes of an identity file. It is
// held for the time of one small write.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock identity: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock identity: %w", err)
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}
