package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Outcome is how a check went.
type Outcome string

// The outcomes.
const (
	// Pass: the plugin does what the contract says.
	Pass Outcome = "pass"
	// Fail: it does not; the detail says what was seen.
	Fail Outcome = "fail"
	// Skip: the check does not apply, or could not be made; the detail says why.
	Skip Outcome = "skip"
)

// Check is one thing that was held against the contract.
type Check struct {
	// ID is a word that stays the same from version to version.
	ID string
	// Title says in one sentence what a plugin has to do.
	Title   string
	Outcome Outcome
	// Detail says what was seen; empty where there is nothing to say. It may quote the
	// plugin, without control characters.
	Detail   string
	Duration time.Duration
}

// MarshalJSON writes the duration in milliseconds.
func (c Check) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		ID       string  `json:"id"`
		Title    string  `json:"title"`
		Outcome  Outcome `json:"outcome"`
		Detail   string  `json:"detail,omitempty"`
		Duration float64 `json:"duration_ms"`
	}{c.ID, c.Title, c.Outcome, c.Detail, float64(c.Duration.Microseconds()) / 1000})
}

// String is the check as [Report.Table] shows it, without an end of line. It holds no
// duration, so that two runs look alike.
func (c Check) String() string {
	row := fmt.Sprintf("%-4s  %-15s  %s", c.Outcome, c.ID, c.Title)
	if c.Detail != "" {
		row += "\n                       " + c.Detail
	}
	return row
}

// Report is the whole story of one plugin.
type Report struct {
	// Plugin is the name that was asked for, Version what the plugin says, or empty.
	Plugin  string `json:"plugin"`
	Version string `json:"version,omitempty"`
	// Checks are in the order in which they were made.
	Checks []Check `json:"checks"`
}

// OK reports whether no check failed and at least one passed.
func (r *Report) OK() bool {
	return r.count(Fail) == 0 && r.count(Pass) > 0
}

func (r *Report) count(o Outcome) (n int) {
	for _, c := range r.Checks {
		if c.Outcome == o {
			n++
		}
	}
	return n
}

// Summary is one line that counts the outcomes.
func (r *Report) Summary() string {
	name := strings.TrimSpace(r.Plugin + " " + r.Version)
	return fmt.Sprintf("%s: %d passed, %d failed, %d skipped", name, r.count(Pass), r.count(Fail), r.count(Skip))
}

// Table writes the report as plain text: each check as [Check.String] has it, then the
// summary.
func (r *Report) Table(w io.Writer) error {
	var text strings.Builder
	for _, c := range r.Checks {
		text.WriteString(c.String() + "\n")
	}
	text.WriteString(r.Summary() + "\n")
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
