package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T, dir string) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plugboard test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return certFile, keyFile, pool
}

func TestTLSFromFiles(t *testing.T) {
	certFile, keyFile, pool := selfSigned(t, t.TempDir())
	h := newServer(t, "PLUGBOARD_TLS__MODE=files", "PLUGBOARD_TLS__CERT_FILE="+certFile, "PLUGBOARD_TLS__KEY_FILE="+keyFile)
	get := func(version uint16) (*http.Response, error) {
		c := &http.Client{Timeout: waitLimit, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MaxVersion: version, MinVersion: version},
		}}
		return c.Get("https://" + h.name() + "/healthz")
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		res, err := get(version)
		if err != nil {
			t.Fatalf("TLS %x: %v", version, err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || res.TLS.Version != version {
			t.Errorf("got %d over %x, want 200 over %x", res.StatusCode, res.TLS.Version, version)
		}
	}
	if res, err := get(tls.VersionTLS11); err == nil {
		_ = res.Body.Close()
		t.Error("TLS 1.1 was accepted")
	} else if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("got %v, want a refused protocol version", err)
	}
}
