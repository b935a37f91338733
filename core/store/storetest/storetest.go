package storetest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
)

// OpenFunc opens the store that belongs to t. Called again with the same t it
// opens the same data; with another t, other data. It fails t where it cannot.
// The suite closes what it opened.
type OpenFunc func(t testing.TB) core.Store

// Run runs the suite, a subtest for each demand.
func Run(t *testing.T, open OpenFunc) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Users", testUsers},
		{"UserDefaultRole", testUserDefaultRole},
		{"UserIndex", testUserIndex},
		{"KeyVersions", testKeyVersions},
		{"Logins", testLogins},
		{"LoginConcurrent", testLoginConcurrent},
		{"Revocations", testRevocations},
		{"Append", testAppend},
		{"AppendRepeated", testAppendRepeated},
		{"AppendForeignSender", testAppendForeignSender},
		{"AppendMailboxFull", testAppendMailboxFull},
		{"AppendConcurrent", testAppendConcurrent},
		{"AppendRepeatedConcurrent", testAppendRepeatedConcurrent},
		{"Read", testRead},
		{"Ack", testAck},
		{"AckConcurrent", testAckConcurrent},
		{"Prune", testPrune},
		{"PruneKeepsRecent", testPruneKeepsRecent},
		{"PruneSpent", testPruneSpent},
		{"PruneMany", testPruneMany},
		{"Commands", testCommands},
		{"KV", testKV},
		{"KVRevisions", testKVRevisions},
		{"KVRevisionsNeverRepeat", testKVRevisionsNeverRepeat},
		{"KVExpiry", testKVExpiry},
		{"KVList", testKVList},
		{"KVQuota", testKVQuota},
		{"KVQuotaConcurrent", testKVQuotaConcurrent},
		{"KVCompareAndSwapConcurrent", testKVCompareAndSwapConcurrent},
		{"KVPrune", testKVPrune},
		{"KVModel", testKVModel},
		{"Sessions", testSessions},
		{"Check", testCheck},
		{"Reopen", testReopen},
		{"Closed", testClosed},
		{"Context", testContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{t: t, open: open}
			s.reopen()
			t.Cleanup(func() {
				if err := s.Close(); err != nil && !errors.Is(err, core.ErrClosed) {
					t.Errorf("close store: %v", err)
				}
			})
			test.run(t, s)
		})
	}
}

// suite is the store under test with verbs for what tests do all the time.
type suite struct {
	core.Store
	t    *testing.T
	open OpenFunc
}

// reopen opens the test's data; the caller has closed it before.
func (s *suite) reopen() {
	s.t.Helper()
	s.Store = s.open(s.t)
}

// start is the time at which every test begins, on a whole microsecond.
var start = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func bytesOf(text string, n int) []byte {
	sum := sha256.Sum256([]byte(text))
	out := append(sum[:], sum[:]...)
	return out[:n]
}

func digestOf(text string) [32]byte { return sha256.Sum256([]byte(text)) }

func newUser(id string) (*core.User, *core.EncryptionKey) {
	return &core.User{
		ID: id, Username: "User " + id, PublicKey: ed25519.PublicKey(bytesOf("identity "+id, 32)),
		Roles: []string{core.RoleUser}, CreatedAt: start,
	}, newKey(id, 1)
}

func newKey(id string, version uint64) *core.EncryptionKey {
	text := fmt.Sprintf("key %s %d", id, version)
	return &core.EncryptionKey{
		Version: version, Public: bytesOf(text, 32), CreatedAt: "2026-03-01T11:59:59.000Z",
		Signature: bytesOf("signature of "+text, 64), PublishedAt: start.Add(time.Duration(version) * time.Hour),
	}
}

func newMessage(from, to, id string) *core.Message {
	return &core.Message{
		From: from, To: to, ID: id, Timestamp: "2026-03-01T12:00:00.000Z", ServerTime: start, KeyVersion: 1,
		Content: "content of " + id, EncryptedKey: "key of " + id, EncryptionNonce: "nonce of " + id,
		Signature: "signature of " + id, Digest: digestOf(from + to + id),
	}
}

// register stores users with the given ids.
func (s *suite) register(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		u, k := newUser(id)
		if err := s.CreateUser(s.t.Context(), u, k); err != nil {
			s.t.Fatalf("create user %q: %v", id, err)
		}
	}
}

// send stores a message that must be taken and returns the answer.
func (s *suite) send(m *core.Message) core.Stored {
	s.t.Helper()
	stored, err := s.Append(s.t.Context(), m, 1000)
	if err != nil {
		s.t.Fatalf("append %s of %s to %s: %v", m.ID, m.From, m.To, err)
	}
	return stored
}

// sendMany stores n messages with the ids m1, m2, …
func (s *suite) sendMany(from, to string, n int) {
	s.t.Helper()
	for i := range n {
		s.send(newMessage(from, to, fmt.Sprintf("m%d", i+1)))
	}
}

// ack acknowledges without signed receipts, which must be taken.
func (s *suite) ack(user string, seq uint64, at time.Time) []core.Receipt {
	s.t.Helper()
	receipts, err := s.Ack(s.t.Context(), user, seq, at, nil)
	if err != nil {
		s.t.Fatalf("ack %d of %s: %v", seq, user, err)
	}
	return receipts
}

func (s *suite) prune(now, delivered time.Time, want int) {
	s.t.Helper()
	n, err := s.Prune(s.t.Context(), now, delivered)
	if err != nil || n != want {
		s.t.Fatalf("prune: got %d, %v, want %d", n, err, want)
	}
}

// wantMailbox checks where a mailbox stands.
func (s *suite) wantMailbox(user string, last, acked uint64) {
	s.t.Helper()
	got, err := s.Mailbox(s.t.Context(), user)
	if want := (core.Mailbox{LastSeq: last, AckedSeq: acked}); err != nil || got != want {
		s.t.Fatalf("mailbox of %s: got %+v, %v, want %+v", user, got, err, want)
	}
}

// wantIDs checks the ids, in order, of all messages kept for a user.
func (s *suite) wantIDs(user string, want ...string) {
	s.t.Helper()
	list, err := s.Read(s.t.Context(), user, 0, 10000, 1<<30)
	if err != nil {
		s.t.Fatalf("read mailbox of %s: %v", user, err)
	}
	var got []string
	for _, m := range list {
		got = append(got, m.ID)
	}
	wantSame(s.t, "ids in mailbox", got, want)
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got error %v, want %v", what, got, want)
	}
}

func wantNone(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: got error %v, want none", what, err)
	}
}

func wantSame(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func testCheck(t *testing.T, s *suite) {
	for range 3 {
		wantNone(t, "check", s.Check(t.Context()))
	}
}

func testReopen(t *testing.T, s *suite) {
	s.register("alice", "bob")
	s.sendMany("alice", "bob", 3)
	s.ack("bob", 1, start)
	before, err := s.Read(t.Context(), "bob", 0, 10, 1<<20)
	wantNone(t, "read", err)
	wantNone(t, "close", s.Close())
	s.reopen()
	after, err := s.Read(t.Context(), "bob", 0, 10, 1<<20)
	wantNone(t, "read after reopening", err)
	wantSame(t, "mailbox after reopening", after, before)
	s.wantMailbox("bob", 3, 1)
	if got := s.send(newMessage("alice", "bob", "m4")); got.Seq != 4 {
		t.Fatalf("seq after reopening: got %d, want 4", got.Seq)
	}
}

// everyCall calls each method once.
func everyCall(ctx context.Context, s core.Store) map[string]error {
	u, k := newUser("carol")
	row := &core.SessionRow{ConnID: "c", SessionID: "s", UserID: "alice", ConnectedAt: start}
	errs := map[string]error{}
	errs["CreateUser"] = s.CreateUser(ctx, u, k)
	_, errs["FindAccount"] = s.FindAccount(ctx, "alice")
	errs["AddKey"] = s.AddKey(ctx, "alice", newKey("alice", 2))
	_, errs["CountUsers"] = s.CountUsers(ctx)
	_, errs["ListUsers"] = s.ListUsers(ctx, "", 10)
	errs["CreateLogin"] = s.CreateLogin(ctx, newLogin("s", "alice"), digestOf("c"), start)
	errs["Revoke"] = s.Revoke(ctx, &core.Revocation{SessionID: "s", UserID: "alice"})
	_, errs["ListRevocations"] = s.ListRevocations(ctx, start)
	_, errs["Append"] = s.Append(ctx, newMessage("alice", "alice", "m"), 10)
	_, errs["FindStored"] = s.FindStored(ctx, "alice", "m", digestOf("m"))
	_, errs["Mailbox"] = s.Mailbox(ctx, "alice")
	_, errs["Read"] = s.Read(ctx, "alice", 0, 10, 10)
	_, errs["Ack"] = s.Ack(ctx, "alice", 0, start, nil)
	_, errs["Prune"] = s.Prune(ctx, start, start)
	errs["LogRuns"] = s.LogRuns(ctx, []core.CommandRun{{ID: "r"}})
	errs["SpendSigned"] = s.SpendSigned(ctx, "alice", "r", digestOf("r"), start)
	_, errs["KVGet"] = s.KVGet(ctx, "weather", "a", start)
	_, errs["KVPut"] = s.KVPut(ctx, "weather", &core.KVWrite{Key: "a"}, ample, start)
	_, errs["KVDelete"] = s.KVDelete(ctx, "weather", "a", nil, start)
	_, _, errs["KVList"] = s.KVList(ctx, "weather", core.KVRange{Limit: 1}, start)
	errs["OpenSession"] = s.OpenSession(ctx, row)
	errs["CloseSession"] = s.CloseSession(ctx, row)
	errs["Check"] = s.Check(ctx)
	return errs
}

func testClosed(t *testing.T, s *suite) {
	s.register("alice")
	wantNone(t, "close", s.Close())
	for name, err := range everyCall(t.Context(), s.Store) {
		wantError(t, name+" after close", err, core.ErrClosed)
	}
	wantError(t, "second close", s.Close(), core.ErrClosed)
}

func testContext(t *testing.T, s *suite) {
	s.register("alice")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range everyCall(ctx, s.Store) {
		wantError(t, name+" with a context that has ended", err, context.Canceled)
	}
	n, err := s.CountUsers(t.Context())
	if err != nil || n != 1 {
		t.Fatalf("users afterwards: got %d, %v, want 1: a refused call must change nothing", n, err)
	}
	s.wantMailbox("alice", 0, 0)
}
