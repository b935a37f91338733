// Command checksum is an example plugin that streams: it hashes a large file in
// chunks, tells how far it is, and stops at once when nobody waits any more.
//
// It reads files below one directory only, its setting root, which the operator also
// has to open to its process:
//
//	plugins:
//	  grants:   {checksum: ["read:/srv/files"]}
//	  settings: {checksum: {root: /srv/files}}
package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/plugboard/plugboard/sdk"
)

// chunk is how much is hashed between two looks at the context.
const chunk = 1 << 20

// Settings are the operator's.
type Settings struct {
	Root string `json:"root" jsonschema:"directory below which files may be hashed, an absolute path"`
}

// Validate is asked before the first call.
func (s *Settings) Validate() error {
	if s.Root != "" && !filepath.IsAbs(s.Root) {
		return fmt.Errorf("root is %q, want an absolute path", s.Root)
	}
	return nil
}

// Params say what is hashed.
type Params struct {
	Path      string `json:"path" jsonschema:"the file, relative to the server's root for this plugin"`
	Algorithm string `json:"algorithm,omitempty" jsonschema:"sha256 (the default) or sha512"`
}

// Progress is one part of the answer.
type Progress struct {
	Bytes int64 `json:"bytes"`
}

// Result is the answer.
type Result struct {
	Algorithm string `json:"algorithm"`
	Sum       string `json:"sum"`
	Bytes     int64  `json:"bytes"`
}

func plugin(s *Settings) sdk.Plugin {
	return sdk.Plugin{
		Name: "checksum", Version: "1.0.0", Summary: "Hashes large files of the server", Settings: s,
		Commands: []sdk.Command{sdk.Stream("checksum", "Hashes a file and tells how far it is", s.checksum, sdk.ReadOnly(), sdk.Idempotent())},
	}
}

func (s *Settings) checksum(ctx context.Context, call sdk.Call, p Params, progress sdk.ProgressFunc) (Result, error) {
	sum, name, err := algorithm(p.Algorithm)
	if err != nil {
		return Result{}, err
	}
	if s.Root == "" {
		return Result{}, sdk.Failf("not_configured", "The operator has not set a directory for this plugin (plugins.settings.checksum.root).")
	}
	f, size, err := open(s.Root, p.Path)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = f.Close() }() // read-only: nothing is lost
	buf := make([]byte, chunk)
	for read := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		read += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return Result{Algorithm: name, Sum: hex.EncodeToString(sum.Sum(nil)), Bytes: read}, nil
		case err != nil:
			call.Log.Warn("File cannot be read to its end", "error", err)
			return Result{}, sdk.Failf("unreadable", "The file cannot be read to its end.")
		}
		if err := progress(percent(read, size), Progress{read}); err != nil {
			return Result{}, err
		}
	}
}

// percent is how far it is; a file that grows meanwhile is not done before its end.
func percent(read, size int64) float64 {
	if size == 0 {
		return 0
	}
	return min(99, float64(read)/float64(size)*100)
}

func algorithm(name string) (hash.Hash, string, error) {
	switch name {
	case "", "sha256":
		return sha256.New(), "sha256", nil
	case "sha512":
		return sha512.New(), "sha512", nil
	}
	return nil, "", sdk.InvalidParams("/algorithm", "must be sha256 or sha512")
}

// open opens a file below root and nowhere else, whatever links and dots there are.
func open(root, path string) (*os.File, int64, error) {
	if path == "" || filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return nil, 0, sdk.InvalidParams("/path", "must be a path relative to the root")
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, 0, fmt.Errorf("open root: %w", err) // for the operator's log
	}
	defer func() { _ = r.Close() }()
	f, err := r.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, 0, sdk.Failf("not_found", "There is no such file.")
		}
		return nil, 0, sdk.InvalidParams("/path", "must lead to a readable file below the root")
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, errors.Join(sdk.InvalidParams("/path", "must lead to a regular file"), f.Close())
	}
	return f, info.Size(), nil
}

func main() { sdk.Serve(plugin(&Settings{})) }
