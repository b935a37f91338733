//go:build !unix || solaris || illumos || aix

package sqlite

import (
	"errors"
	"os"
)

// lockFile refuses: without a lock that ends with the process, two servers could
// share the database.
func lockFile(string) (*os.File, error) {
	return nil, errors.New("lock database: this system has no flock; use Linux, macOS or a BSD")
}
