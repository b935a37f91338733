package sdktest

import (
	"context"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/sdktest/conformance"
)

// verifyTimeout bounds a whole run of the conformance suite.
const verifyTimeout = 3 * time.Minute

// Verify holds an executable against the plugin contract, as plugboard plugins verify
// does: each check that fails is an error of the test. Use [Build] to make the
// executable. settings are one JSON object, or nil.
func Verify(t testing.TB, path string, settings []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	log := &testLog{t: t}
	defer log.close()
	report, err := conformance.Run(ctx, conformance.Options{Path: path, Settings: settings, Output: log})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if c.Outcome == conformance.Fail {
			t.Errorf("%s", c)
		} else {
			t.Logf("%s", c)
		}
	}
}
