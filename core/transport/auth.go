package transport

import (
	"net/http"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// register: POST /auth/register.
func (t *Transport) register(w http.ResponseWriter, r *request) (int, any, error) {
	data, err := body(w, r)
	if err != nil {
		return 0, nil, err
	}
	reg, err := wire.DecodeRegister(data)
	if err != nil {
		return 0, nil, err
	}
	registered, created, err := t.SignIns.Register(r.Context(), reg, r.remote)
	if err != nil {
		return 0, nil, err
	}
	if created {
		return http.StatusCreated, registered, nil
	}
	return http.StatusOK, registered, nil
}

// login: POST /auth/login, and with ?verify=true its second step.
func (t *Transport) login(w http.ResponseWriter, r *request) (int, any, error) {
	verify := false
	switch v := r.URL.Query().Get("verify"); v {
	case "true":
		verify = true
	case "", "false":
	default:
		return 0, nil, fault.New(fault.InvalidRequest, "Parameter \"verify\" must be true or left out.")
	}
	data, err := body(w, r)
	if err != nil {
		return 0, nil, err
	}
	req, err := wire.DecodeLogin(data, verify)
	if err != nil {
		return 0, nil, err
	}
	if verify {
		signIn, err := t.SignIns.SignIn(r.Context(), req, r.remote)
		return http.StatusOK, signIn, err
	}
	challenge, err := t.SignIns.Challenge(req.UserID)
	return http.StatusOK, challenge, err
}

// logout: POST /auth/logout.
func (t *Transport) logout(_ http.ResponseWriter, r *request) (int, any, error) {
	return http.StatusNoContent, nil, t.Tokens.Logout(r.Context(), r.caller)
}

// userKeys: GET /auth/users/{user_id}.
func (t *Transport) userKeys(_ http.ResponseWriter, r *request) (int, any, error) {
	id := r.PathValue("user_id")
	if !wire.ValidUserID(id) {
		return 0, nil, fault.New(fault.UnknownUser, "There is no such user.")
	}
	a, err := t.Keys.Account(r.Context(), id)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, a.UserKeys(), nil
}

// publishKey: PUT /auth/keys.
func (t *Transport) publishKey(w http.ResponseWriter, r *request) (int, any, error) {
	data, err := body(w, r)
	if err != nil {
		return 0, nil, err
	}
	k, err := wire.DecodeKeyUpload(data)
	if err != nil {
		return 0, nil, err
	}
	if err := t.Keys.PublishKey(r.Context(), r.caller, k); err != nil {
		return 0, nil, err
	}
	a, err := t.Keys.Account(r.Context(), r.caller.UserID)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, a.UserKeys(), nil
}
