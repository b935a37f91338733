package transport

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const (
	defaultPage    = 100
	maxActivePage  = 1000
	messagesBudget = 4 << 20 // bytes of content in one answer of GET /messages
)

// activeUsers: GET /active-users.
func (t *Transport) activeUsers(_ http.ResponseWriter, r *request) (int, any, error) {
	limit, err := number(r, "limit", defaultPage, maxActivePage)
	if err != nil {
		return 0, nil, err
	}
	sessions, total := t.Hub.Active(r.URL.Query().Get("after"), int(limit)+1)
	page := wire.ActiveUsers{Users: make([]wire.ActiveUser, 0, len(sessions)), Total: total}
	for _, s := range sessions[:min(int(limit), len(sessions))] {
		page.Users = append(page.Users, wire.ActiveUser{
			UserID: s.UserID(), Username: s.Principal.Username, ConnectedSince: wire.FormatTime(s.ConnectedAt),
		})
	}
	if len(sessions) > int(limit) {
		page.Next = page.Users[limit-1].UserID
	}
	return http.StatusOK, page, nil
}

// messages: GET /messages. It reads; only an ack frame acknowledges.
func (t *Transport) messages(_ http.ResponseWriter, r *request) (int, any, error) {
	limit, err := number(r, "limit", defaultPage, wire.MaxMessagesPage)
	if err != nil {
		return 0, nil, err
	}
	after, err := number(r, "after", 0, wire.MaxInteger)
	if err != nil {
		return 0, nil, err
	}
	box, err := t.Mailboxes.Mailbox(r.Context(), r.caller.UserID)
	if err != nil {
		return 0, nil, core.StoreFault(err)
	}
	stored, err := t.Mailboxes.Read(r.Context(), r.caller.UserID, after, int(limit), messagesBudget) // at most 500
	if err != nil {
		return 0, nil, core.StoreFault(err)
	}
	page := wire.MessagesPage{Messages: make([]jsontext.Value, len(stored)), LastSeq: box.LastSeq}
	for i := range stored {
		page.Messages[i] = stored[i].Frame().Append(nil)
	}
	return http.StatusOK, page, nil
}

// number reads an optional query parameter: 1 … most, or 0 … most where 0 is the
// default.
func number(r *request, name string, standard, most uint64) (uint64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return standard, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	least := min(standard, 1)
	if err != nil || n < least || n > most {
		return 0, fault.Newf(fault.InvalidRequest, "Parameter %q must be a whole number from %d to %d.", name, least, most)
	}
	return n, nil
}

// healthz: GET /healthz, whether the process can do its work.
func (t *Transport) healthz(_ http.ResponseWriter, r *request) (int, any, error) {
	report := t.Health.Live(r.Context())
	return healthStatus(report.OK()), report, nil
}

// readyz: GET /readyz, whether it should be given any.
func (t *Transport) readyz(_ http.ResponseWriter, r *request) (int, any, error) {
	report := t.Health.Ready(r.Context())
	return healthStatus(report.OK()), report, nil
}

func healthStatus(ok bool) int {
	if ok {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}
