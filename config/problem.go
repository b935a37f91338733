package config

import (
	"fmt"
	"strings"
)

// Origin is where a value came from. It prints as "default", "FILE:LINE",
// "environment NAME" or "flag --NAME".
type Origin struct {
	text string
}

// String is the origin as it is shown.
func (o Origin) String() string {
	if o.text == "" {
		return "default"
	}
	return o.text
}

// IsDefault reports whether nobody said the value.
func (o Origin) IsDefault() bool { return o.text == "" }

// Problem is one thing wrong with a configuration.
type Problem struct {
	// Key is the setting, empty when a whole source could not be read.
	Key string
	// Origin is where its value came from.
	Origin Origin
	// Text says what is wrong and what is allowed; secrets in it are masked.
	Text string
}

// String is the problem as one sentence.
func (p Problem) String() string {
	if p.Key == "" {
		return fmt.Sprintf("%s: %s", p.Origin, p.Text)
	}
	return fmt.Sprintf("%s (%s): %s", p.Key, p.Origin, p.Text)
}

// Error is everything that is wrong with a configuration.
type Error struct {
	Problems []Problem
}

// Error is one line per problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
