package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

const (
	// Signing keys are named by the time of their making, so that the last in the
	// order of names is the newest whatever a copy does to the files' own times.
	signingPrefix = "signing-"
	keySuffix     = ".pem"
	signingTime   = "20060102T150405.000000000Z"
	challengeFile = "challenge" + keySuffix

	pemSigning   = "PRIVATE KEY" // PKCS #8
	pemChallenge = "PLUGBOARD CHALLENGE KEY"

	challengeKeyBytes = 32
	maxKeyFileBytes   = 4096
)

// serverKeys are the keys of this server, or of all nodes of a cluster.
type serverKeys struct {
	challenge []byte
	// signing is the newest; header is the first segment of the tokens it signs.
	signing ed25519.PrivateKey
	kid     string
	// byHeader are all that verify, by the first segment of their tokens.
	byHeader map[string]ed25519.PublicKey
}

func openKeys(dir string, now time.Time) (*serverKeys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make key directory: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("look at key directory: %w", err)
	} else if err := checkPrivate(dir, info, 0o700); err != nil {
		return nil, err
	}
	k := &serverKeys{byHeader: make(map[string]ed25519.PublicKey)}
	if err := k.openSigning(dir, now); err != nil {
		return nil, err
	}
	return k, k.openChallenge(dir)
}

func (k *serverKeys) openSigning(dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read key directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, signingPrefix) && strings.HasSuffix(n, keySuffix) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		name, err := makeSigning(dir, now)
		if err != nil {
			return err
		}
		names = []string{name}
	}
	slices.Sort(names)
	for _, name := range names { // the newest comes last and stays
		key, err := readSigning(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		public := key.Public().(ed25519.PublicKey)
		k.signing, k.kid = key, thumbprint(public)
		k.byHeader[tokenHeader(k.kid)] = public
	}
	return nil
}

func makeSigning(dir string, now time.Time) (name string, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode signing key: %w", err)
	}
	name = signingPrefix + now.UTC().Format(signingTime) + keySuffix
	return name, writeKey(filepath.Join(dir, name), &pem.Block{Type: pemSigning, Bytes: der})
}

func readSigning(path string) (ed25519.PrivateKey, error) {
	der, err := readKey(path, pemSigning)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read signing key %q: not PKCS #8", path) // the cause might quote the file
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read signing key %q: got a %T, want Ed25519", path, parsed)
	}
	return key, nil
}

func (k *serverKeys) openChallenge(dir string) error {
	path := filepath.Join(dir, challengeFile)
	key, err := readKey(path, pemChallenge)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, challengeKeyBytes)
		_, _ = rand.Read(key) // never fails (crypto/rand)
		err = writeKey(path, &pem.Block{Type: pemChallenge, Bytes: key})
	}
	if err != nil {
		return err
	}
	if len(key) != challengeKeyBytes {
		return fmt.Errorf("read challenge key %q: got %d bytes, want %d", path, len(key), challengeKeyBytes)
	}
	k.challenge = key
	return nil
}

func readKey(path, kind string) (_ []byte, err error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names the directory
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read key %q: not a regular file", path)
	}
	if err := checkPrivate(path, info, 0o600); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFileBytes))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, fmt.Errorf("read key %q: want exactly one PEM block %q; restore the file from a backup", path, kind)
	}
	return block.Bytes, nil
}

// checkPrivate refuses what group or others may touch.
func checkPrivate(path string, info fs.FileInfo, want fs.FileMode) error {
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%q has mode %04o, so other accounts can reach the server's keys: run chmod %04o %q, and make new keys if somebody may have read them", path, perm, want, path)
	}
	return nil
}

// writeKey leaves the whole file under its name or nothing, whatever happens.
func writeKey(path string, block *pem.Block) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("make key file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = errors.Join(pem.Encode(f, block), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("name key file: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return errors.Join(err, os.Rename(path, f.Name()))
	}
	return nil
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir) // #nosec G304 -- the operator names the directory
	if err != nil {
		return fmt.Errorf("open key directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	return nil
}

// thumbprint is the JWK thumbprint of an Ed25519 key (RFC 7638, RFC 8037 appendix A.3).
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
