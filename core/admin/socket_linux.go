package admin

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxSocketPath is what fits in sockaddr_un with its final zero byte.
const maxSocketPath = 107

// socketAddress is an address for a socket's path, however long: through a descriptor
// of its directory. The address is good until done is called.
func socketAddress(path string) (address string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}
