package pluginhost_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/fault"
)

// The rows of docs/plugin-pitfalls.md, in their order, and what proves the rule:
//
//	Ping and Kill of a hung plugin block      TestHungPluginIsKilled, TestStopKillsWhatDoesNotEnd
//	a grandchild that holds stderr            TestGrandchildDiesWithThePlugin
//	plugins outlive a killed host             TestKilledHostLeavesNoPlugin, TestLifelineIsInherited
//	sockets stay after SIGKILL                TestKilledHostLeavesNoPlugin; every test's end looks for leftovers
//	a socket path that is too long            TestRunDirectory
//	prints before the handshake               TestHandshakeIsFoundBehindRubbish, TestOutputReachesTheLog
//	prints after Serve vanish                 TestOutputReachesTheLog
//	levels of panics, lines over 64 KiB       TestTailAndLevels, TestReadLines
//	the host's environment leaks              TestEnvironmentIsMinimal
//	requests over 4 MB                        TestLargeResults, TestRepliesFitAMessage
//	a SecureConfig's second use               TestEveryStartIsANewGeneration
//	crash loops                               TestFiveCrashesQuarantine, TestBackoffGrowsWithFullJitter
//	state lost at a restart                   TestGrantsSurviveARestart
//	a broker per request                      there is none: TestHostRequests runs over the one stream
//	calls cut at teardown                     TestStopDrains, TestNoCallIsLostByReplacements
//	SIGTERM kills plugins before the drain    the check "signals" of sdk/sdktest/conformance
//	AutoMTLS costs time at the start          TestSlowPluginsHoldUpNobody
//	text file busy, checksum of another file  TestNoCallIsLostByReplacements, TestLockedTrustRunsWhatTheLockNames
//	a version bump breaks every plugin        the check "unknown-message" of sdk/sdktest/conformance
//	a paused debugger is killed               TestAttachedPluginsAreNotTimed
//	two plugins claim one name                TestDescribeNamesEverything, TestBadFilesDoNotDisturbGoodOnes
//
// Those that stand nowhere else follow.

func TestEveryStartIsANewGeneration(t *testing.T) {
	w := newWorld(t, "good").start(nil)
	seen := map[int]bool{}
	for range 3 {
		pid := w.detail("good").PID
		if seen[pid] {
			t.Errorf("process %d served twice", pid)
		}
		seen[pid] = true
		_, err := w.invoke(t.Context(), "good.crash", "{}")
		w.wantCode(err, fault.PluginUnavailable)
		w.wantResult("good", "{}", "{}")
	}
	left, err := os.ReadDir(filepath.Join(w.run, "g"))
	if err != nil || len(left) != 1 {
		t.Errorf("got directories %v, %v, want that of the one that runs", left, err)
	}
}

func TestGrantsSurviveARestart(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.Grants = map[string][]string{"good": {"server"}} })
	_, err := w.invoke(t.Context(), "good.crash", "{}")
	w.wantCode(err, fault.PluginUnavailable)
	w.wantResult("good.host", `{"ask":"server"}`, `{"code":"","version":"9.9.9"}`)
	w.wantResult("good.host", `{"ask":"users"}`, `{"code":"forbidden","version":""}`)
}

func TestSlowPluginsHoldUpNobody(t *testing.T) {
	w := newWorld(t, "good", "silent")
	h, err := pluginhost.New(pluginhost.Options{Dir: w.dir, RunDir: w.run, Host: services{}, Catalogue: w.catalogue, StartTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w.host = h
	begin := time.Now()
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer w.stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the start took %v, want it not to wait for plugins", took)
	}
	w.wantState("good", pluginhost.StateReady)
	w.wantResult("good", "{}", "{}")
	if got := w.state("silent").State; got != pluginhost.StateStarting {
		t.Errorf("got %s, want the slow one still starting", got)
	}
}
