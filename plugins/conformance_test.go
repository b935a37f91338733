// Package plugins_test holds the plugins of this repository against their contract.
package plugins_test

import (
	"testing"

	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ping", "echo", "serverinfo", "usercount", "listcommands"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sdktest.Verify(t, sdktest.Build(t, "./"+name, name), nil)
		})
	}
}
