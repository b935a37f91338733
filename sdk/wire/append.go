package wire

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// writer appends one JSON object. Empty optional members are left out.
type writer struct {
	buf []byte
}

func open(dst []byte, kind string) writer {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, kind...)
	return writer{append(dst, '"')}
}

func (w *writer) name(name string) {
	w.buf = append(w.buf, ',', '"')
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, '"', ':')
}

// text writes a string, replacing bytes that are not UTF-8 rather than losing
// the frame.
func (w *writer) text(name, value string) {
	w.name(name)
	w.buf, _ = jsontext.AppendQuote(w.buf, value) // the only error is invalid UTF-8, already replaced
}

func (w *writer) optional(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *writer) integer(name string, value uint64) {
	w.name(name)
	w.buf = strconv.AppendUint(w.buf, value, 10)
}

func (w *writer) optionalInteger(name string, value uint64) {
	if value != 0 {
		w.integer(name, value)
	}
}

func (w *writer) number(name string, value *float64) {
	if value != nil {
		w.name(name)
		w.buf = jsontext.AppendFloat(w.buf, *value, 64)
	}
}

// raw writes JSON as it is, byte for byte.
func (w *writer) raw(name string, value []byte) {
	if len(value) != 0 {
		w.name(name)
		w.buf = append(w.buf, value...)
	}
}

func (w *writer) close() []byte { return append(w.buf, '}') }
