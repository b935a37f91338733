package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
)

func TestFromNeverShowsTheCause(t *testing.T) {
	secret := errors.New("open /var/lib/plugboard/keys: permission denied")
	for name, err := range map[string]error{
		"plain":         secret,
		"wrapped":       fmt.Errorf("start: %w", secret),
		"fault's cause": fault.New(fault.StorageUnavailable, "Nothing was stored.").WithCause(secret),
	} {
		got := fault.From(err, "ref-1")
		if strings.Contains(got.Message, "permission") {
			t.Errorf("%s: message %q shows the cause", name, got.Message)
		}
		if !errors.Is(got, secret) {
			t.Errorf("%s: the cause is lost to the operator", name)
		}
	}
	if got := fault.From(secret, "ref-1"); got.Code != fault.Internal || !strings.Contains(got.Message, "ref-1") {
		t.Errorf("got %v, want internal with its reference", got)
	}
}

func TestRefiningLeavesTheOriginalAlone(t *testing.T) {
	base := fault.New(fault.RateLimited, "Too many messages.")
	refined := base.WithRetryAfter(time.Second).WithDetails(map[string]int{"rate": 10})
	if base.RetryAfter != 0 || base.Details != nil {
		t.Errorf("the shared value changed: %+v", base)
	}
	if refined.RetryAfter != time.Second || string(refined.Details) != `{"rate":10}` {
		t.Errorf("got %+v, want the refinements", refined)
	}
	if !errors.Is(refined, base) {
		t.Error("errors of one code do not match")
	}
}

func TestEveryCodeHasAStatus(t *testing.T) {
	codes := []fault.Code{
		fault.BadJSON, fault.InvalidRequest, fault.UnknownType, fault.TooLarge, fault.UnknownUser, fault.UserExists,
		fault.RegistrationClosed, fault.AuthenticationFailed, fault.TokenExpired, fault.TokenRevoked, fault.Forbidden,
		fault.RateLimited, fault.InvalidSignature, fault.SignatureRequired, fault.EncryptionRequired, fault.StaleTimestamp,
		fault.KeyVersion, fault.IDConflict, fault.MailboxFull, fault.UnknownCommand, fault.InvalidParams, fault.CommandFailed,
		fault.CommandTimeout, fault.CommandCancelled, fault.PluginUnavailable, fault.Overloaded, fault.StorageUnavailable,
		fault.ShuttingDown, fault.Internal,
	}
	if len(codes) != 29 {
		t.Fatalf("got %d codes, want the 29 of docs/protocol.md §5", len(codes))
	}
	for _, c := range codes {
		if !c.Valid() || c.HTTPStatus() < 400 {
			t.Errorf("%s: valid %v, status %d", c, c.Valid(), c.HTTPStatus())
		}
	}
	if fault.Code("made_up").Valid() {
		t.Error("a made-up code is valid")
	}
}
