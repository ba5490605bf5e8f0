package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fieldgate/fieldgate/gateway"
	"github.com/fieldgate/fieldgate/gateway/broker/mapping"
)

// hubKey is a symmetric key as the hub hands them out, known to everybody.
const hubKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// passwordHash is that of "open sesame". Making one is slow on purpose.
const passwordHash = "$2a$10$CK3P6X0bLM1fiNceEwMhTOnWq3nEkIzjc741EYA0WvKshVVTt1Xcy"

// folder makes a configuration folder with everything that
// testdata/fieldgate.toml names, and with that text as its fieldgate.toml.
func folder(t *testing.T, text string) (file string) {
	t.Helper()
	dir := t.TempDir()
	cert, key := certificate(t)
	for name, content := range map[string]string{
		"fieldgate.toml": text, "pump-1.key": hubKey + "\n", "pump-1.hash": passwordHash + "\n", "proxy.password": "open sesame\n",
		"bind.key": "231d39c1d7cc1ab1aee224cd096db932\n",
		"cert.pem": cert, "key.pem": key, "hub-ca.pem": cert,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "fieldgate.toml")
}

// certificate makes a certificate for 127.0.0.1 and its key, in PEM form.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "gate-7.example"},
		DNSNames:     []string{"gate-7.example"},
		NotBefore:    time.Now().Add(-4 * time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	secretDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secretDER}))
}

func exampleText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/fieldgate.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A configuration with one of everything, as it was written for former versions, is
// still what a gateway runs with, without a word to be said about it.
func TestFormerConfigurations(t *testing.T) {
	kept, err := filepath.Glob("testdata/formats/*.toml")
	if err != nil || len(kept) == 0 {
		t.Fatalf("nothing is kept: %v", err)
	}
	for _, file := range kept {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := loadConfig(folder(t, string(text))); err != nil {
			t.Errorf("%s: %v", file, err)
		} else if len(cfg.warnings) > 0 {
			t.Errorf("%s: %v", file, cfg.warnings)
		}
	}
}

func TestLoadConfig(t *testing.T) {
	file := folder(t, exampleText(t))
	cfg, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	if cfg.Gateway.DataDir != filepath.Join(dir, "data") || cfg.Hub.CAFile != filepath.Join(dir, "hub-ca.pem") {
		t.Errorf("relative paths became %q and %q, want them below %q", cfg.Gateway.DataDir, cfg.Hub.CAFile, dir)
	}
	telemetry := cfg.Path.Lanes[gateway.LaneTelemetry]
	if telemetry.TTL.D() != 7*24*time.Hour || cfg.Path.Lanes[gateway.LaneAlarm].Custody != gateway.CustodyDisk {
		t.Errorf("lanes of the path are %+v", cfg.Path.Lanes)
	}
	if room := cfg.Store.Lanes[gateway.LaneTelemetry]; room.MaxBytes != 256<<20 || room.Full != "drop-oldest" {
		t.Errorf("room of the telemetry lane is %+v", room)
	}
	if len(cfg.Broker.Listeners) != 2 || len(cfg.modules) != 2 || len(cfg.ports) != 3 || cfg.ports[0].Line().Baud != 9600 {
		t.Errorf("got %d listeners, %d modules and the ports %+v", len(cfg.Broker.Listeners), len(cfg.modules), cfg.ports)
	}
	if len(cfg.leaves) != 3 || cfg.leaves[0].Password.IsZero() || cfg.leaves[0].key.IsZero() || !cfg.leaves[1].Password.IsZero() {
		t.Errorf("leaves are %+v", cfg.leaves)
	}
	if len(cfg.rules) != 2 || cfg.rules[0].Kind != mapping.Telemetry || cfg.rules[1].Login != "pump-1" {
		t.Errorf("rules are %+v", cfg.rules)
	}
	if !cfg.Broker.Listeners[1].WebSocket || cfg.Broker.ClientCAFile != filepath.Join(dir, "hub-ca.pem") {
		t.Errorf("broker is %+v", cfg.Broker)
	}
	if cfg.leaves[1].Thumbprints[0].IsZero() || !cfg.leaves[1].Thumbprints[1].IsZero() {
		t.Errorf("thumbprints of the leaf are %v", cfg.leaves[1].Thumbprints)
	}
	if b := cfg.ble; b == nil || b.Connections != 4 || len(b.Adverts) != 1 || len(b.Adverts[0].Key) != 16 ||
		b.Adverts[0].Deadband["temperature"] != 0.2 || len(b.Devices) != 1 || len(b.Devices[0].Characteristics) != 2 {
		t.Errorf("BLE is %+v", cfg.ble)
	}
	if n := cfg.nodes; len(n) != 1 || n[0].Leaf != "node-7" || n[0].Format != "mqtt-sn" || n[0].Link.Predefined["7"] != "telemetry/flow" || n[0].Link.Retry != nodeRetry {
		t.Errorf("devices over BLE that speak MQTT-SN are %+v", n)
	}
	if len(cfg.warnings) != 0 {
		t.Errorf("warnings: %v", cfg.warnings)
	}
}

func TestLeafFolder(t *testing.T) {
	file := folder(t, exampleText(t))
	dir := filepath.Join(filepath.Dir(file), "leaf.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.toml", "[[leaf]]\nid = \"a\"\nkey_file = \"../pump-1.key\"\n\n[[serial]]\nport = \"/dev/ttyS1\"\nleaf = \"b\"\n")
	write("b.toml", "[[leaf]]\nid = \"b\"\nkey_file = \"../pump-1.key\"\n")
	write("not-read.txt", "rubbish")
	cfg, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.leaves) != 5 || cfg.leaves[3].ID != "a" || cfg.leaves[4].ID != "b" || len(cfg.ports) != 4 {
		t.Errorf("got leaves %+v and ports %+v", cfg.leaves, cfg.ports)
	}
	write("c.toml", "[[leaf]]\nid = \"pump-1\"\nkey_file = \"../pump-1.key\"\n\n[hub]\nhost = \"other\"\n")
	_, err = loadConfig(file)
	mistakes, _ := errors.AsType[invalid](err)
	want := []string{
		"leaf.d/c.toml:2:6: there is a leaf \"pump-1\" already, at ", "leaf.d/c.toml:5:2: unknown key \"hub\"",
	}
	if len(mistakes) != len(want) {
		t.Fatalf("mistakes: %v", err)
	}
	for i := range want {
		if !strings.Contains(mistakes[i].Error(), want[i]) {
			t.Errorf("mistake %v, want %q in it", mistakes[i], want[i])
		}
	}
}

func TestSecretsThatOthersCanReadAreAWarning(t *testing.T) {
	file := folder(t, exampleText(t))
	for _, name := range []string{"pump-1.hash", "key.pem"} {
		if err := os.Chmod(filepath.Join(filepath.Dir(file), name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.warnings) != 2 || cfg.warnings[0].Line != 31 || cfg.warnings[1].Line != 87 {
		t.Errorf("warnings %v, want one for line 31 and one for line 87", cfg.warnings)
	}
}

// mistakes are edits of testdata/fieldgate.toml: the first occurrence of old is
// replaced by wrong. The mark § in wrong is the place that must be named (and is
// taken out before). suggest is what must be suggested, "" where there is
// nothing that could be.
var mistakes = []struct{ old, wrong, suggest string }{
	// Keys.
	{"data_dir", "§data_dri", "`data_dir`"},
	{"data_dir", "§datadir", "`data_dir`"},
	{"host =", "§hots =", "`host`"},
	{"host =", "§hostname =", "`host`"},
	{"ca_file", "§cafile", "`ca_file`"},
	{"keep_alive", "§keepalive", "`keep_alive`"},
	{"token_ttl", "§token_tll", "`token_ttl`"},
	{"transport", "§transprot", "`transport`"},
	{"probe_interval", "§probe_intervall", "`probe_interval`"},
	{"proxy =", "§proxi =", "`proxy`"},
	{"proxy_password_file", "§proxy_pasword_file", "`proxy_password_file`"},
	{"window", "§windw", "`window`"},
	{"window", "§max_connections", "[broker]"},
	{"backoff_max", "§max_backoff", "`backoff_max`"},
	{"max_packet_size", "§max_pkt_size", "`max_packet_size`"},
	{"max_packet_size", "§packet_size", "`max_packet_size`"},
	{"max_packet_size", "§Max-Packet-Size", "`max_packet_size`"},
	{"cert_file", "§certfile", "`cert_file`"},
	{"spill_after", "§spil_after", "`spill_after`"},
	{"ttl = \"7d\"", "§tll = \"7d\"", "`ttl`"},
	{"min_free", "§minfree", "`min_free`"},
	{"delta", "§detla", "`delta`"},
	{"\npassword_file", "\n§passwd_file", "`password_file`"},
	{"key_file = \"pump-1.key\"", "§key = \"pump-1.key\"", "`key_file`"},
	{"baud", "§baudrate", "`baud`"},
	{"baud = 9600", "§xyzzy = 1", ""},
	{"thumbprint", "§thumb_print", "`thumbprint`"},
	{"websocket", "§web_socket", "`websocket`"},
	{"client_ca_file", "§client_ca", "`client_ca_file`"},
	{"login = ", "§logn = ", "`login`"},
	// Tables.
	{"[hub]", "[§hbu]", "`hub`"},
	{"[metrics]", "[§metric]", "`metrics`"},
	{"[lane.alarm]", "[lane.§alarms]", "`alarm`"},
	{"[[broker.listener]]", "[[broker.§listeners]]", "`listener`"},
	{"[path]", "[[§path]]", "[path]"},
	{"[[map]]", "[[§maps]]", "`map`"},
	{"[upload]", "[§uplod]", "`upload`"},
	// Types and units.
	{"keep_alive = \"30s\"", "keep_alive = §30", "\"30s\""},
	{"\"30s\"", "§\"30 sec\"", "`\"30s\"`"},
	{"\"1m\"", "§\"1min\"", "`\"1m\"`"},
	{"\"7d\"", "§\"7 days\"", "`\"7d\"`"},
	{"\"320KiB\"", "§\"320kb\"", "`\"320KiB\"`"},
	{"\"4MiB\"", "§\"4MB\"", "`\"4MiB\"`"},
	{"max_bytes = \"256MiB\"", "max_bytes = §268435456", "\"64KiB\""},
	{"window = 64", "window = §\"64\"", "`64`"},
	{"plain = true", "plain = §\"yes\"", "`true`"},
	{"plain = true", "plain = §yes", "`plain = true`"},
	{"\"info\"", "§\"verbose\"", ""},
	{"\"plant.hub.example\"", "§plant.hub.example", "`host = \"plant.hub.example\"`"},
	{"host = \"plant.hub.example\"", "host§: \"plant.hub.example\"", "`host = \"plant.hub.example\"`"},
	// Values.
	{"\"disk\"", "§\"dsk\"", "\"disk\""},
	{"\"drop-oldest\"", "§\"drop_oldest\"", "\"drop-oldest\""},
	{"window = 64", "window = §0", "1 to 5000"},
	{"\"json\"", "§\"xml\"", "\"json\""},
	{"\"auto\"", "§\"amqps\"", "\"amqp-ws\""},
	{"\"http://gate@10.0.0.1:3128\"", "§\"10.0.0.1:3128\"", "\"http://user@10.0.0.1:3128\""},
	{"\"http://gate@10.0.0.1:3128\"", "§\"http://gate:secret@10.0.0.1:3128\"", "proxy_password_file"},
	{"\"http://gate@10.0.0.1:3128\"\nproxy_password_file = ", "\"environment\"\nproxy_password_file = §", ""},
	{"proxy = \"http://gate@10.0.0.1:3128\"\n", "§", "proxy ="},
	{"\"proxy.password\"", "§\"proxy.pasword\"", ""},
	{"name = \"filter\"", "name = §\"fitler\"", "`\"filter\"`"},
	{"op = \"<\"", "op = §\"lt\"", "\"<\""},
	{"address = \"127.0.0.1:0\"\nplain = true", "address = \"0.0.0.0:1883\"\nplain = §true", "127.0.0.1:1883"},
	{"leaf = \"meter-1\"", "leaf = §\"metre-1\"", "`\"meter-1\"`"},
	{"/dev/serial/by-id/usb-meter", "§/dev/ttyUSB0", "/dev/serial/by-id"},
	{"\"usb:A50285BI\"", "§\"usb:\"", "serial number"},
	{"\"modbus\"", "§\"modbuss\"", "`\"modbus\"`"},
	{"\"mqtt-sn\"", "§\"mqttsn\"", "`\"mqtt-sn\"`"},
	{"leaves = [\"meter-1\"]", "leaves = [§\"metre-1\"]", "`\"meter-1\"`"},
	{"leaves = [\"meter-1\"]", "leaves = [\"meter-1\", §\"pump-1\"]", "usb:A50285BI"}, // it is a slave there
	{"retry = \"3s\"", "§retries_after = \"3s\"", ""},
	{"retry = \"3s\"", "retry = §\"3ms\"", "100ms"},
	{"{ 1 = \"telemetry\" }", "{ 1 = §\"telemetrie\" }", "telemetry"},
	{"{ al = \"alarm\" }", "{ §alarm = \"alarm\" }", "two characters"},
	{"[[serial.slave]]", "[[serial.§slaves]]", "`slave`"},
	{"[[serial.slave.register]]", "[[serial.slave.§registers]]", "`register`"},
	{"address = 9", "§adress = 9", "`address`"},
	{"address = 9", "address = §900", "247"},
	{"\"holding\"", "§\"holdings\"", "\"holding\""},
	{"\"float32\"", "§\"float\"", "\"float32\""},
	{"\"CDAB\"", "§\"little\"", "\"CDAB\""},
	{"poll = \"5s\"", "poll = §5", ""},
	{"leaf = \"pump-1\"", "leaf = §\"pump-2\"", "`\"pump-1\"`"},
	{"tele/{leaf}", "§tele/{device}", "{leaf}"},
	{"\"tele/{leaf}/{channel}\"", "§\"leaf/{leaf}/{channel}\"", ""},
	{"kind = \"command\"", "kind = §\"commands\"", "\"command\""},
	{"kind = \"command\"", "kind = \"command\"\nreply = §\"a\"", "\"call\""},
	{"kind = \"command\"", "kind = \"call\"\nreply = §\"a/+\"", "no +"},
	{"kind = \"command\"", "kind = \"call\"\n§replay = \"a\"", "`reply`"},
	{"login = \"pump-1\"", "login = §\"pump-11\"", "`\"pump-1\"`"},
	{"\"128MiB\"", "§\"1KiB\"", "1MiB"},
	{"127.0.0.1:8443", "§127.0.0.1", "port"},
	{"id = \"meter-1\"", "id = \"meter-1\"\nauth = §\"relai\"", "\"relay\""},
	{"id = \"meter-1\"", "id = \"meter-1\"\nauth = §\"gateway\"", "device_id"},
	{"id = \"meter-1\"", "id = \"meter-1\"\nmay_listen = §[\"pump-11\"]", "`\"pump-1\"`"},
	{"id = \"meter-1\"", "id = \"meter-1\"\n§may_lisen = [\"pump-1\"]", "`may_listen`"},
	{"[hub]\n", "[§hub]\ndevice_id = \"gate-7\"\n", "key_file"},
	{"[hub]\n", "[enrol]\nby = §\"registry\"\npolicy_key_file = \"pump-1.key\"\n[hub]\nprofile = \"mqtt\"\n", "[enrol]"},
	{"[hub]\n", "[hub]\nprofile = §\"mqqt\"\n", "\"mqtt\""},
	{"[hub]\n", "[hub]\nprofile = \"mqtt\"\npayload = §\"xml\"\n", "\"json\""},
	{"[hub]\n", "[hub]\nprofile = \"mqtt\"\ntopic = §\"a/b\"\n", "{leaf}"},
	{"[hub]\n", "[hub]\n§topics = \"a/b\"\n", "`topic`"},
	{"[hub]\n", "[hub]\n§device_di = \"gate-7\"\n", "`device_id`"},
	{"id = \"meter-1\"\nkey_file", "id = \"meter-1\"\nauth = \"relay\"\nkey_file = §\"pump-1.key\"\n#", "auth"},
	// What the file names.
	{"\"pump-1.hash\"", "§\"pump-2.hash\"", ""},
	{"\"pump-1.hash\"", "§\"pump-1.key\"", "hash-password"},
	{"\"hub-ca.pem\"", "§\"key.pem\"", ""},
	{"id = \"meter-1\"", "id = §\"pump-1\"", ""},
	{"\"0123456789abcdef", "§\"0123456789abcdex", ""},
	{"client_ca_file = \"hub-ca.pem\"", "client_ca_file = §\"key.pem\"", ""},
	{"\"500ms\"", "§\"1ms\"", "10ms"},
	// BLE.
	{"[ble]", "[§bel]", "`ble`"},
	{"[[ble.advert]]", "[[ble.§adverts]]", "`advert`"},
	{"scan = \"passive\"", "scan = §\"pasive\"", "\"passive\""},
	{"min_interval", "§mininterval", "`min_interval`"},
	{"\"A4:C1:38:12:34:56\"", "§\"A4C138123456\"", "\"A4:C1:38:12:34:56\""},
	{"\"bthome\"", "§\"bthom\"", "\"bthome\""},
	{"\"bind.key\"", "§\"pump-1.key\"", "32 hexadecimal"},
	{"pairing = \"passkey\"", "pairing = §\"pin\"", "\"passkey\""},
	{"uuid = \"2A6E\"", "uuid = §\"temperature\"", "\"2A6E\""},
	{"read = \"5m\"", "read = §\"often\"", "\"once\""},
	{"format = \"uint8\"", "format = §\"byte\"", "\"uint8\""},
	{"address = \"C8:12:34:56:78:9A\"\nleaf = \"pump-1\"", "address = \"C8:12:34:56:78:9A\"\nleaf = §\"pump-11\"", "`\"pump-1\"`"},
	{"format = \"mqtt-sn\"\npairing", "format = §\"mqttsn\"\npairing", "`\"mqtt-sn\"`"},
	{"pairing = \"just-works\"", "pairing = \"just-works\"\n§lane = \"alarm\"", ""}, // messages say it
	{"pairing = \"just-works\"", "pairing = §\"justworks\"", "\"just-works\""},
	{"{ 7 = \"telemetry/flow\" }", "{ 7 = §\"flow\" }", "telemetry"},
	{"leaf = \"node-7\"\nformat", "leaf = §\"pump-1\"\nformat", "C8:12:34:56:78:9A"}, // it is another device
	{"leaf = \"node-7\"\nformat", "leaf = §\"meter-1\"\nformat", "usb-concentrator"}, // it is reached there
	{"\"C8:12:34:56:78:9B\"", "§\"C8:12:34:56:78:9A\"", ""},
	// Board.
	{"[board]", "[§borad]", "`board`"},
	{"led = \"ACT\"", "§leds = \"ACT\"", "`led`"},
	{"led = \"ACT\"", "led = §\"/sys/class/leds/ACT\"", "\"auto\""},
	{"\"pinctrl-bcm2711:26\"", "§\"GPIO26\"", "\"pinctrl-bcm2711:26\""},
	{"button_pressed = \"low\"", "button_pressed = §\"down\"", "\"low\""},
	{"watchdog = true", "§watch_dog = true", "`watchdog`"},
	{"watchdog_timeout = \"10s\"", "watchdog_timeout = §\"2500ms\"", "\"5s\""},
	// What is missing.
	{"host = \"plant.hub.example\"\n", "", "host"},
}

// A table of which there can be several is written as one.
func TestOneSerialTable(t *testing.T) {
	one, _, _ := strings.Cut(exampleText(t), "\n[[serial]]\nport = \"usb:")
	_, err := loadConfig(folder(t, strings.Replace(one, "[[serial]]", "[serial]", 1)))
	if found, _ := errors.AsType[invalid](err); len(found) == 0 || !strings.Contains(found[0].Message, "[[serial]]") {
		t.Errorf("got %v", err)
	}
}

func TestMistakes(t *testing.T) {
	example := exampleText(t)
	if len(mistakes) < 50 {
		t.Fatalf("only %d mistakes", len(mistakes))
	}
	var could, did int
	for _, m := range mistakes {
		if strings.Count(example, m.old) == 0 {
			t.Fatalf("the example has no %q", m.old)
		}
		text := strings.Replace(example, m.old, m.wrong, 1)
		line := 1 + strings.Count(text[:max(0, strings.Index(text, "§"))], "\n")
		if !strings.Contains(text, "§") {
			line = 1 + strings.Count(text[:strings.Index(text, "[hub]")], "\n") // the table it is missing in
		}
		_, err := loadConfig(folder(t, strings.Replace(text, "§", "", 1)))
		found, _ := errors.AsType[invalid](err)
		if len(found) == 0 {
			t.Errorf("%q instead of %q is no mistake: %v", m.wrong, m.old, err)
			continue
		}
		if found[0].Line != line {
			t.Errorf("%q instead of %q: line %d is named first, want %d\n%v", m.wrong, m.old, found[0].Line, line, err)
		}
		if m.suggest == "" {
			continue
		}
		could++
		if strings.Contains(found[0].Message, m.suggest) {
			did++
		} else {
			t.Logf("%q instead of %q: no %s in\n%v", m.wrong, m.old, m.suggest, err)
		}
	}
	t.Logf("%d mistakes; %d of %d suggestions", len(mistakes), did, could)
	if did < max(40, could) {
		t.Errorf("the right thing was suggested %d times of %d", did, could)
	}
}

func TestAllMistakesAreReported(t *testing.T) {
	text := strings.NewReplacer(
		"host =", "hots =", "\"7d\"", "7", "\"filter\"", "\"fitler\"", "pump-1.hash", "nowhere", "9600", "\"9600\"",
	).Replace(exampleText(t))
	_, err := loadConfig(folder(t, text))
	found, _ := errors.AsType[invalid](err)
	var lines []int
	for _, p := range found {
		lines = append(lines, p.Line)
	}
	if len(lines) != 5 {
		t.Fatalf("five mistakes in five lines, but reported were\n%v", err)
	}
}

// TestOwnIdentity: over MQTT the gateway has an identity of its own, and leaves need
// none.
func TestOwnIdentity(t *testing.T) {
	text := strings.NewReplacer("\"auto\"", "\"mqtt-ws\"", "key_file = \"pump-1.key\"\n", "").Replace(exampleText(t))
	_, err := loadConfig(folder(t, text))
	if mistakes, _ := errors.AsType[invalid](err); len(mistakes) != 1 || !strings.Contains(mistakes[0].Message, "device_id") {
		t.Errorf("without an identity: %v", err)
	}
	for own, good := range map[string]bool{
		"device_id = \"gate-7\"\nkey_file = \"pump-1.key\"\n":  true,
		"device_id = \"gate-7\"\n":                             false,
		"device_id = \"gate-7\"\nkey_file = \"pump-1.hash\"\n": false,
	} {
		cfg, err := loadConfig(folder(t, strings.Replace(text, "[hub]\n", "[hub]\n"+own, 1)))
		if (err == nil) != good {
			t.Errorf("%s: %v", own, err)
		}
		if good && (cfg.ownKey.IsZero() || !cfg.Hub.overMQTT() || len(cfg.leaves) != 3) {
			t.Errorf("%s: %+v", own, cfg.Hub)
		}
	}
}

// Over MQTT a leaf may be called like the gateway's own device, but not where that has a
// method of its own.
func TestOwnDeviceIsNoLeaf(t *testing.T) {
	own := strings.NewReplacer(
		"\"auto\"", "\"mqtt-ws\"", "key_file = \"pump-1.key\"\n", "", "[hub]\n", "[hub]\ndevice_id = \"pump-1\"\nkey_file = \"pump-1.key\"\n",
	).Replace(exampleText(t))
	if _, err := loadConfig(folder(t, own)); err != nil {
		t.Errorf("without updates: %v", err)
	}
	_, err := loadConfig(folder(t, own+"\n[update]\nfrom = [\"https://updates.example/\"]\n"))
	mistakes, _ := errors.AsType[invalid](err)
	if len(mistakes) != 1 || !strings.Contains(mistakes[0].Message, `"pump-1" is the gateway's own device`) {
		t.Errorf("with updates: %v", err)
	}
}

// FuzzConfig: no text in the file can bring the program down, or is turned away
// without a place in it.
func FuzzConfig(f *testing.F) {
	text, err := os.ReadFile("testdata/fieldgate.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add("[[leaf]]\nid=1\n[[module]]\n[[module]]\nname='filter'\nvalue=[1,{}]\n[lane]\nalarm=3")
	f.Add("lane.telemetry.full='thin'\nbroker.listener=[{plain=true},{}]\n[[serial]]")
	file := filepath.Join(f.TempDir(), "fieldgate.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/") { // the fuzzer must not wander about the machine
			return
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadConfig(file)
		if found, ok := errors.AsType[invalid](err); err != nil && (!ok || len(found) == 0) {
			t.Errorf("error without a place: %v", err)
		}
	})
}
