package nmea_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/fieldgate/fieldgate/drivers/serial/nmea"
)

// Sentences that receivers' manuals and the usual descriptions of the protocol
// show.
func TestPublishedSentences(t *testing.T) {
	for in, want := range map[string]string{
		"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A": `{"sentence":"RMC","talker":"GP","time":"1994-03-23T12:35:19Z",` +
			`"valid":true,"lat":48.1173,"lon":11.5166667,"speed":11.524,"course":84.4}`,
		"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47": `{"sentence":"GGA","talker":"GP","time":"12:35:19",` +
			`"lat":48.1173,"lon":11.5166667,"altitude":545.4,"quality":1,"satellites":8,"hdop":0.9}`,
		"$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39": `{"sentence":"GSA","talker":"GP","satellites":5,"fix":3,"pdop":2.5,"hdop":1.3,"vdop":2.1}`,
		"$GPZDA,201530.00,04,07,2002,00,00*60":            `{"sentence":"ZDA","talker":"GP","time":"2002-07-04T20:15:30Z"}`,
		"$GPRMC,225446,A,4916.45,N,12311.12,W,000.5,054.7,191194,020.3,E*68": `{"sentence":"RMC","talker":"GP","time":"1994-11-19T22:54:46Z",` +
			`"valid":true,"lat":49.2741667,"lon":-123.1853333,"speed":0.257,"course":54.7}`,
		"$GPGLL,4916.45,N,12311.12,W,225444,A*31": `{"sentence":"GLL","talker":"GP","fields":["4916.45","N","12311.12","W","225444","A"]}`,
	} {
		s, err := nmea.Parse([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := string(s.JSON()); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", in, got, want)
		}
		noisy := "\xff\x00$GPRMC,12" + in + "\r"
		if again, err := nmea.Parse([]byte(noisy)); err != nil || string(again.JSON()) != want {
			t.Errorf("behind noise: %v", err)
		}
		for i := range len(in) {
			if _, err := nmea.Parse([]byte(in[:i])); err == nil {
				t.Errorf("%s is taken for a sentence", in[:i])
			}
		}
	}
}

func sum(text string) string { return fmt.Sprintf("$%s*%02X", text, nmea.Checksum([]byte(text))) }

// What the receiver does not know is absent, and nonsense is not passed on as a
// place.
func TestWhatIsNotThere(t *testing.T) {
	for in, want := range map[string]string{
		sum("GNRMC,,V,,,,,,,,,,N"):                       `{"sentence":"RMC","talker":"GN","valid":false}`,
		sum("GPGGA,250000,9107.0,N,01131.0,X,x,1e5,,,M"): `{"sentence":"GGA","talker":"GP"}`,
		sum("GPZDA,201530.00,40,07,2002,00,00"):          `{"sentence":"ZDA","talker":"GP","time":"20:15:30"}`,
		sum("PUBX,00,1"):                                 `{"sentence":"UBX","talker":"P","fields":["00","1"]}`,
		sum("GPRMC"):                                     `{"sentence":"RMC","talker":"GP","valid":false}`,
	} {
		s, err := nmea.Parse([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if got := string(s.JSON()); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", in, got, want)
		}
	}
	for in, want := range map[string]error{
		"": nmea.ErrNone, "hello": nmea.ErrNone, "$": nmea.ErrChecksum, "$GPRMC,1*": nmea.ErrChecksum, "$GPRMC,1*XX": nmea.ErrChecksum,
		"$GPRMC,1*00": nmea.ErrChecksum, "$*00": nmea.ErrNone, sum("GP\x01MC,1"): nmea.ErrNone, sum("GPS,1"): nmea.ErrNone,
	} {
		if _, err := nmea.Parse([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A"))
	f.Add([]byte("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, in := range [][]byte{text, fmt.Appendf(nil, "$%s*%02X", text, nmea.Checksum(text))} {
			if s, err := nmea.Parse(in); err == nil && !json.Valid(s.JSON()) {
				t.Errorf("%q: %s", in, s.JSON())
			}
		}
	})
}
