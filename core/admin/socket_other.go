//go:build !linux

package admin

import "fmt"

// maxSocketPath is what fits in sockaddr_un of the BSDs with its final zero byte.
const maxSocketPath = 103

// socketAddress is an address for a socket's path.
func socketAddress(path string) (address string, done func(), err error) {
	if len(path) > maxSocketPath {
		return "", nil, fmt.Errorf("socket path %s has %d bytes, at most %d are possible: choose a shorter data_dir", path, len(path), maxSocketPath)
	}
	return path, func() {}, nil
}
