package pairing

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// signingRequest is what a leaf sends.
func signingRequest(t testing.TB, id string, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{"id": id, "csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func request(t testing.TB, id string) Request {
	t.Helper()
	r, err := ParseRequest(signingRequest(t, id, newECKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newWindow is a window of a gateway that has the leaf pump-1 and admits who is
// approved, except the leaf "unlucky".
func newWindow() *Window {
	known := map[string]bool{"pump-1": true}
	return &Window{
		Known:  func(id string) bool { return known[id] },
		Usable: func(string) error { return nil },
		Admit: func(r Request, _ string) (Answer, error) {
			if r.ID == "unlucky" {
				return Answer{}, errors.New("flash is full")
			}
			known[r.ID] = true
			return Answer{ID: r.ID, Certificate: "of " + r.ID}, nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func opened(t *testing.T, w *Window, o Options) Code {
	t.Helper()
	code, _, err := w.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func entered(t *testing.T, w *Window, code Code) *Guest {
	t.Helper()
	g, err := w.Enter(code.Text(), "192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// One leaf pairs, also when its connection is lost in between; another one with the
// same code does not.
func TestWindow(t *testing.T) {
	w := newWindow()
	if _, err := w.Enter("1234-5678-9", ""); !errors.Is(err, ErrWindow) {
		t.Errorf("without a window: %v", err)
	}
	code := opened(t, w, Options{})
	if _, _, err := w.Open(Options{}); !errors.Is(err, ErrIsOpen) {
		t.Errorf("a second window: %v", err)
	}
	if err := w.Approve("pump-2"); !errors.Is(err, ErrNoClaim) {
		t.Errorf("approved before anybody asked: %v", err)
	}
	r := request(t, "pump-2")
	first, err := entered(t, w, code).Claim(r)
	if err != nil {
		t.Fatal(err)
	}
	for what, other := range map[string]Request{"another leaf": request(t, "pump-3"), "another key": request(t, "pump-2"), "a password": {ID: "pump-2"}} {
		if _, err := entered(t, w, code).Claim(other); !errors.Is(err, ErrUsed) {
			t.Errorf("%s with the same code: %v", what, err)
		}
	}
	again, err := entered(t, w, code).Claim(r)
	if err != nil {
		t.Fatal(err)
	}
	if s := w.State(); s.Claim != "pump-2" || s.State != "claimed" || s.Key == "" {
		t.Errorf("the state is %+v", s)
	}
	if err := w.Approve("pump-2"); err != nil {
		t.Fatal(err)
	}
	<-first.Decided()
	<-again.Decided()
	if a, err := again.Answer(); err != nil || a.Certificate != "of pump-2" {
		t.Errorf("the answer is %+v, %v", a, err)
	}
	again.Delivered()
	if s := w.State(); s.Open || s.Last != "paired with pump-2" {
		t.Errorf("afterwards the state is %+v", s)
	}
	if _, err := w.Enter(code.Text(), ""); !errors.Is(err, ErrWindow) {
		t.Errorf("the code afterwards: %v", err)
	}
}

// Whoever waits is told when nothing comes of it.
func TestWindowEnds(t *testing.T) {
	for what, c := range map[string]struct {
		end  func(*Window)
		o    Options
		id   string
		want string
	}{
		"rejected": {func(w *Window) { w.Reject("pump-2") }, Options{}, "pump-2", "rejected"},
		"closed":   {func(w *Window) { w.Close() }, Options{}, "pump-2", "operator has closed"},
		"failed":   {func(*Window) {}, Options{Auto: true}, "unlucky", "flash is full"},
		"late":     {func(*Window) {}, Options{For: 300 * time.Millisecond}, "pump-2", "in time"},
	} {
		w := newWindow()
		g := entered(t, w, opened(t, w, c.o))
		ticket, err := g.Claim(request(t, c.id))
		if err != nil && what == "late" { // a slow machine
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		c.end(w)
		select {
		case <-ticket.Decided():
		case <-time.After(time.Minute):
			t.Fatalf("%s: the leaf waits for ever", what)
		}
		if _, err := ticket.Answer(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the leaf is told %v", what, err)
		}
		if w.State().Open {
			t.Errorf("%s: the window is open", what)
		}
	}
}

// The name of a leaf that is there is an alarm, and the end of the window.
func TestKnownLeaf(t *testing.T) {
	w := newWindow()
	var log strings.Builder
	w.Log = slog.New(slog.NewTextHandler(&log, nil))
	code := opened(t, w, Options{Auto: true})
	if _, err := entered(t, w, code).Claim(request(t, "pump-1")); !errors.Is(err, ErrKnown) {
		t.Errorf("got %v", err)
	}
	if text := log.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "event=pairing-known-leaf") {
		t.Errorf("the log is %s", text)
	}
	if strings.Contains(log.String(), code.digits) || strings.Contains(log.String(), code.Text()) {
		t.Error("the code is in the log")
	}
	if w.State().Open {
		t.Error("the window is still open")
	}
}

// Five wrong codes close the window, and the next one has to wait; slips do not count.
func TestWrongCodes(t *testing.T) {
	w := newWindow()
	code := opened(t, w, Options{})
	for _, slip := range []string{"", "1", code.digits[:8], code.digits + "0", "abcd-efgh-i", strings.Repeat("1", 1<<20), code.digits[:8] + string('0'+(code.digits[8]-'0'+1)%10)} {
		if _, err := w.Enter(slip, ""); !errors.Is(err, ErrCode) {
			t.Errorf("%.20q: %v", slip, err)
		}
	}
	if n := w.State().Wrong; n != 0 {
		t.Errorf("%d slips counted", n)
	}
	for i := 1; i <= maxWrong; i++ {
		other := NewCode()
		for other == code {
			other = NewCode()
		}
		if _, err := w.Enter(other.Text(), ""); !errors.Is(err, ErrCode) {
			t.Fatalf("wrong code %d: %v", i, err)
		}
	}
	if _, err := w.Enter(code.Text(), ""); !errors.Is(err, ErrWindow) {
		t.Errorf("the right code after five wrong ones: %v", err)
	}
	if _, _, err := w.Open(Options{}); !errors.Is(err, ErrBackoff) {
		t.Errorf("opened again at once: %v", err)
	}
	if s := w.State(); s.Retry.IsZero() || s.Last == "" {
		t.Errorf("the state is %+v", s)
	}
}

func TestCodes(t *testing.T) {
	for range 1000 {
		c := NewCode()
		if got, ok := parseCode(c.Text()); !ok || got != c {
			t.Fatalf("%s is read as %v", c.Text(), got)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %#v %s", c, c, c, c), c.digits[:4]) {
			t.Fatal("the code shows itself")
		}
		swapped := []byte(c.digits)
		swapped[2], swapped[3] = swapped[3], swapped[2]
		// Luhn does not tell 09 from 90.
		if _, ok := parseCode(string(swapped)); ok && c.digits[2] != c.digits[3] && c.digits[2:4] != "09" && c.digits[2:4] != "90" {
			t.Errorf("%s is taken for %s", swapped, c.digits)
		}
	}
	for d, want := range map[string]bool{"00000000": true, "77777777": true, "12345678": true, "87654321": true, "12345679": false} {
		if trivial(d) != want {
			t.Errorf("%s is trivial: %v", d, !want)
		}
	}
	if checkDigit("7992739871") != '3' { // ISO/IEC 7812-1's usual example
		t.Error("the check digit is not Luhn's")
	}
}

func TestRequests(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := string(signingRequest(t, "a", newECKey(t)))
	forged := strings.Replace(string(signingRequest(t, "a", newECKey(t))), "MI", "MJ", 1)
	for text, want := range map[string]string{
		good:                         "",
		`{"id":"a","password":true}`: "", string(signingRequest(t, "a", weak)): "1024", forged: "csr",
		``: "form", `[]`: "form", `{"id":"a","csr":"x","more":1}`: "form", `{"id":"a"}`: "both or neither",
		`{"id":"a","csr":"x"}`: "PEM", strings.Replace(good, `"csr"`, `"password":true,"csr"`, 1): "both",
		`{"id":"` + strings.Repeat("a", MaxRequest) + `"}`: "bytes",
	} {
		r, err := ParseRequest([]byte(text))
		if want == "" && (err != nil || r.ID != "a") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(signingRequest(f, "pump-7", newECKey(f)))
	f.Add([]byte(`{"id":"a","password":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRequest(text); err == nil && r.CSR != nil && r.CSR.CheckSignature() != nil {
			t.Errorf("%q is taken, and not signed", text)
		}
	})
}

func FuzzCode(f *testing.F) {
	f.Add(NewCode().Text())
	f.Add("1234 5678 9")
	f.Fuzz(func(t *testing.T, text string) {
		if c, ok := parseCode(text); ok {
			if again, ok := parseCode(c.Text()); !ok || again != c {
				t.Errorf("%q is read as %v, and that as %v", text, c.digits, again.digits)
			}
		}
	})
}

// Whoever stands before the box sees what became of a leaf, for a while.
func TestOutcome(t *testing.T) {
	w := newWindow()
	expect := func(what string, want Outcome) {
		t.Helper()
		if got := w.Outcome(time.Minute); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("at first", "")
	code := opened(t, w, Options{})
	if _, err := entered(t, w, code).Claim(request(t, "pump-7")); err != nil {
		t.Fatal(err)
	}
	expect("not decided", "")
	if err := w.Approve("pump-7"); err != nil {
		t.Fatal(err)
	}
	expect("approved", Paired)
	if got := w.Outcome(0); got != "" {
		t.Errorf("later: %q", got)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	code = opened(t, w, Options{})
	expect("opened again", "")
	other := NewCode()
	for other == code {
		other = NewCode()
	}
	_, _ = w.Enter(other.Text(), "") // it is refused
	expect("a wrong code", Refused)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := entered(t, w, opened(t, w, Options{})).Claim(request(t, "pump-1")); !errors.Is(err, ErrKnown) {
		t.Fatal(err)
	}
	expect("a name that is taken", Refused)
	code = opened(t, w, Options{})
	if _, err := entered(t, w, code).Claim(request(t, "pump-8")); err != nil {
		t.Fatal(err)
	}
	if err := w.Reject("pump-8"); err != nil {
		t.Fatal(err)
	}
	expect("rejected", Refused)
	opened(t, w, Options{Auto: true})
	expect("opened once more", "")
}

// While a leaf is being admitted, which may take long, the state is told, nobody else
// decides, and an end of the window comes after that.
func TestSlowAdmission(t *testing.T) {
	var hold *Hold // of the claim that is bound
	for what, begin := range map[string]func(w *Window, slow func() error) (result chan error){
		"approved": func(w *Window, slow func() error) chan error {
			w.Admit = func(r Request, _ string) (Answer, error) { return Answer{ID: r.ID, Password: "new"}, slow() }
			if _, err := entered(t, w, opened(t, w, Options{})).Claim(request(t, "pump-7")); err != nil {
				t.Fatal(err)
			}
			result := make(chan error, 1)
			go func() { result <- w.Approve("pump-7") }()
			return result
		},
		"at once": func(w *Window, slow func() error) chan error {
			w.Admit = func(r Request, _ string) (Answer, error) { return Answer{ID: r.ID, Password: "new"}, slow() }
			g, r := entered(t, w, opened(t, w, Options{Auto: true})), request(t, "pump-7")
			result := make(chan error, 1)
			go func() {
				ticket, err := g.Claim(r)
				if err == nil {
					<-ticket.Decided()
					_, err = ticket.Answer()
				}
				result <- err
			}()
			return result
		},
		"bound": func(w *Window, slow func() error) chan error {
			opened(t, w, Options{Transport: OverSerial})
			var err error
			if hold, err = w.Claim(Options{Transport: OverSerial}, "pump-7", "usb:A1", "test"); err != nil {
				t.Fatal(err)
			}
			result := make(chan error, 1)
			go func() { result <- w.Bind(OverSerial, "pump-7", "usb:A1", slow) }()
			return result
		},
	} {
		for _, fails := range []error{nil, errors.New("flash is full")} {
			t.Run(fmt.Sprintf("%s/%v", what, fails), func(t *testing.T) {
				w := newWindow()
				began, goOn := make(chan struct{}), make(chan struct{})
				result := begin(w, func() error {
					close(began)
					<-goOn
					return fails
				})
				<-began
				if s := w.State(); !s.Open || s.Claim != "pump-7" || s.State != Claimed {
					t.Errorf("meanwhile the state is %+v", s)
				}
				for other, err := range map[string]error{
					"approve": w.Approve("pump-7"), "reject": w.Reject("pump-7"), "close": w.Close(), "bind": w.Bind(OverSerial, "pump-7", "usb:A1", nil),
					"claim": claimOf(w, OverSerial, "pump-7", "usb:A1"),
				} {
					if err == nil {
						t.Errorf("%s is done meanwhile", other)
					}
				}
				if hold != nil {
					hold.Release() // who binds it is killed
				}
				w.mu.Lock()
				w.endLocked(w.open, "nobody has paired in time") // as its timer does
				w.mu.Unlock()
				if !w.State().Open {
					t.Error("it has ended in the middle")
				}
				close(goOn)
				if err := <-result; !errors.Is(err, fails) {
					t.Errorf("it comes to %v, want %v", err, fails)
				}
				if s := w.State(); s.Open {
					t.Errorf("afterwards the state is %+v", s)
				}
			})
		}
	}
}

func claimOf(w *Window, transport, id, address string) error {
	_, err := w.Claim(Options{Transport: transport}, id, address, "test")
	return err
}

// Over a wire of its own a device is claimed and bound by the operator, by the rules of
// all windows.
func TestWindowOfAWire(t *testing.T) {
	var log strings.Builder
	w := &Window{
		Known:  func(id string) bool { return id == "meter-1" },
		At:     func(string) string { return "usb:A1" },
		Usable: func(string) error { return errors.New("MQTT cannot be used") },
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
	}
	open := func(transport string) {
		t.Helper()
		if _, _, err := w.Open(Options{Transport: transport}); err != nil {
			t.Fatal(err)
		}
	}
	var hold, other *Hold // of the last claim, and of that before
	claim := func(transport, id, address, source string) (err error) {
		got, err := w.Claim(Options{Transport: transport}, id, address, source)
		if err == nil {
			hold, other = got, hold
		}
		return err
	}
	admitted := 0
	admit := func() error { admitted++; return nil }
	wants := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	wants("without a window", w.Bind(OverSerial, "meter-2", "usb:B2", admit), ErrWindow)
	open(OverSerial)
	if _, err := w.Code(); !errors.Is(err, ErrWindow) {
		t.Errorf("it has a code: %v", err)
	}
	if _, err := w.Enter("1234-5674", "test"); !errors.Is(err, ErrWindow) {
		t.Errorf("it can be entered over MQTT: %v", err)
	}
	wants("over another wire", claim(OverBLE, "meter-2", "C8:00:00:00:00:01", "test"), ErrTaken)
	wants("without a claim", w.Bind(OverSerial, "meter-2", "usb:B2", admit), ErrNoClaim)
	wants("a claim", claim(OverSerial, "meter-2", "usb:B2", "test"), nil)
	if s := w.State(); s.Transport != OverSerial || s.Claim != "meter-2" || s.Address != "usb:B2" || s.State != Claimed {
		t.Errorf("state %+v", s)
	}
	wants("approval by somebody else", w.Approve("meter-2"), ErrNoClaim)
	wants("another port", w.Bind(OverSerial, "meter-2", "usb:C3", admit), ErrNoClaim)
	wants("the same claim", claim(OverSerial, "meter-2", "USB:b2", "test"), nil)
	for what, err := range map[string]error{
		"another claim":             claim(OverSerial, "meter-3", "usb:C3", "other"),
		"the port for another leaf": claim(OverSerial, "meter-3", "usb:B2", "other"),
		"the name for another port": claim(OverSerial, "meter-2", "usb:C3", "other"),
		"a name that is there":      claim(OverSerial, "meter-1", "usb:C3", "other"),
		"another window":            func() error { _, _, err := w.Open(Options{Transport: OverBLE}); return err }(),
	} {
		if wants(what, err, ErrTaken); err != nil && (!strings.Contains(err.Error(), `over serial until 20`) || !strings.Contains(err.Error(), `, for "meter-2" at usb:B2, claimed by test`)) {
			t.Errorf("%s: it does not say whose it is: %v", what, err)
		}
	}
	hold.Release()
	hold.Release() // counts once
	if s := w.State(); s.Claim != "meter-2" {
		t.Errorf("who shares the claim has lost it: %+v", s)
	}
	other.Release()
	if s := w.State(); s.Claim != "" || !s.Open {
		t.Errorf("all have given up, and the state is %+v", s)
	}
	wants("the next claim", claim(OverSerial, "meter-3", "usb:C3", "test"), nil)
	wants("the claim before", w.Bind(OverSerial, "meter-2", "usb:B2", admit), ErrNoClaim)
	if admitted != 0 {
		t.Fatal("somebody is admitted")
	}
	wants("binding", w.Bind(OverSerial, "meter-3", "usb:C3", admit), nil)
	if s := w.State(); admitted != 1 || s.Open || s.Last != "paired with meter-3" {
		t.Errorf("admitted %d times, state %+v", admitted, s)
	}
	if err := w.Bind(OverSerial, "meter-4", "usb:D4", admit); !errors.Is(err, ErrWindow) || !strings.Contains(err.Error(), "paired with meter-3") {
		t.Errorf("binding behind the end: %v", err)
	}
	last := hold
	wants("a claim without a window", claim(OverSerial, "meter-4", "usb:D4", "test"), nil)
	if s := w.State(); !s.Open || s.Transport != OverSerial || !hold.Opened() || !hold.Until().Equal(s.Until) {
		t.Errorf("it has opened none: %+v, %v until %v", s, hold.Opened(), hold.Until())
	}
	last.Release() // of a window that was before
	if s := w.State(); !s.Open || s.Claim != "meter-4" {
		t.Errorf("the end of another claim has ended it: %+v", s)
	}
	hold.Release()
	if s := w.State(); s.Open || strings.Contains(s.Last, "operator") || w.Outcome(time.Minute) != Refused {
		t.Errorf("afterwards the state is %+v, and the outcome %q", s, w.Outcome(time.Minute))
	}

	wants("a claim without a window", claim(OverSerial, "meter-4", "usb:D4", "test"), nil)
	wants("another one's share of it", claim(OverSerial, "meter-4", "usb:D4", "other"), nil)
	other.Release() // who has opened the window
	if s := w.State(); !s.Open || s.Claim != "meter-4" || hold.Opened() {
		t.Errorf("who shares the claim has lost the window: %+v", s)
	}
	hold.Release()
	if s := w.State(); s.Open {
		t.Errorf("nobody is at it any more, and the state is %+v", s)
	}

	open(OverSerial)
	wants("what is there at that port", claim(OverSerial, "meter-1", "USB:a1", "test"), ErrKnown)
	if w.State().Open || strings.Contains(log.String(), "pairing-known-leaf") {
		t.Errorf("an alarm for what is as it should be, or still open:\n%s", &log)
	}
	open(OverSerial)
	wants("what is at another port", claim(OverSerial, "meter-1", "usb:B2", "test"), ErrKnown)
	if w.State().Open || !strings.Contains(log.String(), "event=pairing-known-leaf transport=serial leaf=meter-1 source=test address=usb:B2") {
		t.Errorf("no alarm, or still open:\n%s", &log)
	}

	open(OverBLE)
	broken := errors.New("broken")
	wants("a claim", claim(OverBLE, "valve-1", "C8:00:00:00:00:01", "test"), nil)
	wants("what cannot be admitted", w.Bind(OverBLE, "valve-1", "c8:00:00:00:00:01", func() error { return broken }), broken)
	if w.State().Open {
		t.Error("still open")
	}
	open(OverBLE)
	w.Wrong(OverBLE, "C8:00:00:00:00:01") // nobody has claimed it
	wants("a claim", claim(OverBLE, "valve-1", "C8:00:00:00:00:01", "test"), nil)
	w.Wrong(OverBLE, "c8:00:00:00:00:01")
	hold.Release()
	wants("the next try", claim(OverBLE, "valve-1", "C8:00:00:00:00:01", "test"), nil)
	w.Wrong(OverBLE, "C8:00:00:00:00:02")
	w.Wrong(OverSerial, "C8:00:00:00:00:01")
	for i := range maxWrong - 1 {
		if s := w.State(); s.Wrong != 1+i {
			t.Errorf("%d wrong, want %d", s.Wrong, 1+i)
		}
		w.Wrong(OverBLE, "c8:00:00:00:00:01")
	}
	if s := w.State(); s.Open || s.Retry.IsZero() || !strings.Contains(log.String(), "pairing-guessed") {
		t.Errorf("still open: %+v", s)
	}
}

// After a wrong passkey the claim stays for the next try, and for whoever shares it: the
// end of one takes it from nobody.
func TestWrongIsShared(t *testing.T) {
	const valve, address = "valve-1", "C8:00:00:00:00:01"
	w := newWindow()
	claim := func() *Hold {
		t.Helper()
		h, err := w.Claim(Options{Transport: OverBLE}, valve, address, "test")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	expect := func(what, claim string, open bool) {
		t.Helper()
		if s := w.State(); s.Claim != claim || s.Open != open {
			t.Errorf("%s: %+v", what, s)
		}
	}
	first, second := claim(), claim()
	w.Wrong(OverBLE, address)
	first.Release()
	third := claim()
	third.Release()
	expect("two of three have gone", valve, true)
	if err := w.Bind(OverBLE, valve, address, func() error { return nil }); err != nil {
		t.Errorf("who is still at it cannot bind: %v", err)
	}
	second.Release()

	first = claim()
	w.Wrong(OverBLE, address)
	second = claim()
	w.Wrong(OverBLE, address)
	first.Release()
	second.Release()
	expect("both had it wrong", valve, true)
	claim().Release() // as its opener has gone, this is the end
	expect("the next try has come to nothing", "", false)
}
