// Package plugins_test holds the examples against the contract of plugins.
package plugins_test

import (
	"testing"

	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"checksum", "reminders", "weather"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sdktest.Verify(t, sdktest.Build(t, "./"+name, name), nil)
		})
	}
}
