package store_test

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpen(t *testing.T) {
	s, err := store.Open(t.Context(), store.Options{Driver: store.DriverSQLite, DSN: filepath.Join(t.TempDir(), "plugboard.db")})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestOpenRefused(t *testing.T) {
	for _, o := range []store.Options{
		{Driver: "", DSN: "x"},
		{Driver: "oracle", DSN: "x"},
		{Driver: store.DriverSQLite},
		{Driver: store.DriverSQLite, DSN: t.TempDir()},
	} {
		s, err := store.Open(t.Context(), o)
		if s != nil || err == nil {
			t.Errorf("open %+v: got %v, %v, want nil and an error", o, s, err)
		}
	}
	_, err := store.Open(t.Context(), store.Options{Driver: "oracle"})
	if err == nil || !strings.Contains(err.Error(), `"oracle"`) || !strings.Contains(err.Error(), `"sqlite"`) {
		t.Errorf("unknown driver: got error %v, want what was given and what is allowed", err)
	}
}
