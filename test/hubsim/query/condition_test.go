package query_test

import (
	"testing"

	"github.com/fieldgate/fieldgate/test/hubsim/query"
)

func TestConditions(t *testing.T) {
	doc := document(t, twin)
	for condition, want := range map[string]bool{
		// Comparisons, of numbers by value.
		`deviceId = 'pump-1'`:                                true,
		`DEVICEID = 'pump-1'`:                                true, // the first name has no case
		`TAGS.group = 'a'`:                                   true,
		`tags.GROUP = 'a'`:                                   false, // the others have
		`deviceId != 'pump-1'`:                               false,
		`deviceId <> "pump-2"`:                               true,
		`deviceId > 'pump'`:                                  true,
		`tags.plant.hall = 3`:                                true,
		`tags.plant.hall = 3.0`:                              true,
		`tags.plant.hall = 0x3`:                              true,
		`tags.plant.hall = 30e-1`:                            true,
		`tags.plant.hall < 3`:                                false,
		`tags.plant.hall <= 3`:                               true,
		`tags.plant.hall >= 4`:                               false,
		`tags.plant.name = 'Süd'`:                            true,
		`capabilities.iotEdge`:                               false,
		`NOT capabilities.iotEdge`:                           true,
		`properties.reported.on`:                             true,
		`properties.reported.temperature < -12`:              true,
		`properties.desired.rate = properties.reported.rate`: true,
		`properties.desired.$version = 7`:                    true,
		`devices.deviceId = 'pump-1'`:                        true,
		`tags.group = 'a'`:                                   true, // a keyword behind a dot is a name
		`tags['my tag'] = 1`:                                 true,
		`tags.2nd`:                                           true,
		`tags['it''s'] = 'so'`:                               true,
		// Strings.
		`'it''s' = "it's"`:        true,
		`'\'' = "'"`:              true,
		`'\u00fc' = 'ü'`:          true,
		`tags.back = 'a\\b'`:      true,
		`tags.back = 'a\b'`:       true, // a backslash that escapes nothing
		`"say ""x""" = 'say "x"'`: true,
		// Logic, with what is not there.
		`tags.no = 1`:                                 false,
		`tags.no != 1`:                                false,
		`NOT tags.no = 1`:                             false,
		`tags.no = 1 OR true`:                         true,
		`true or tags.no = 1`:                         true,
		`NOT (tags.no = 1 AND false)`:                 true,
		`NOT (false AND tags.no = 1)`:                 true,
		`true AND false OR true`:                      true,
		`true OR true AND false`:                      true,
		`(true OR true) AND false`:                    false,
		`NOT false AND true`:                          true,
		`NOT NOT true`:                                true,
		`'text'`:                                      false,
		`1`:                                           false,
		`tags.plant.hall = '3'`:                       false, // kinds do not mix
		`tags.plant.hall != '3'`:                      false,
		`properties.reported.on = true`:               true,
		`properties.reported.on > false`:              false,
		`properties.reported.none = null`:             true,
		`properties.reported.on != null`:              true,
		`properties.reported.none < 1`:                false,
		`tags.no = null`:                              false,
		`tags = tags`:                                 false, // objects cannot be compared
		`properties.reported.list = [1, 2]`:           false,
		`undefined = undefined`:                       false,
		`tags.plant.hall.deeper = 1`:                  false,
		`status IN ['disabled', 'enabled']`:           true,
		`status in ['disabled']`:                      false,
		`status NIN ['disabled']`:                     true,
		`status NOT IN ['enabled']`:                   false,
		`tags.plant.hall IN [1, 'x', 3]`:              true,
		`tags.no NIN [1]`:                             false,
		`status IN []`:                                false,
		`NOT status IN ['disabled'] AND version = 4`:  true,
		`1 + 2 * 3 = 7`:                               true,
		`(1 + 2) * 3 - 1 = 8`:                         true,
		`7 % 4 = 3`:                                   true,
		`-tags.plant.hall = -3`:                       true,
		`- - 3 = 3`:                                   true,
		`1 / 0 = 1 / 0`:                               false,
		`5 % 0 = 5 % 0`:                               false,
		`'a' + 1 = 'a1'`:                              false,
		`version / 2 = 2`:                             true,
		`is_defined(tags.plant)`:                      true,
		`is_defined(tags.no)`:                         false,
		`NOT IS_DEFINED(tags.no)`:                     true,
		`is_defined(properties.reported.none)`:        true,
		`starts_with(deviceId, 'pump')`:               true,
		`ends_with(deviceId, '-2')`:                   false,
		`contains(deviceId, 'mp-')`:                   true,
		`contains(version, '4')`:                      false,
		`length(tags.plant.name) = 3`:                 true,
		`upper(deviceId) = 'PUMP-1'`:                  true,
		`lower('ÜB') = 'üb'`:                          true,
		`substring(tags.plant.name, 1) = 'üd'`:        true,
		`substring(deviceId, 1, 2) = 'um'`:            true,
		`substring(deviceId, 4, 99) = '-1'`:           true,
		`substring(deviceId, 99) = ''`:                true,
		`is_defined(substring(deviceId, -1))`:         false,
		`is_defined(substring(deviceId, 0, 'x'))`:     false,
		`index_of(tags.plant.name, 'd') = 2`:          true,
		`index_of(deviceId, 'x') = -1`:                true,
		`concat(status, '!', 'x') = 'enabled!x'`:      true,
		`is_defined(concat(status, 1))`:               false,
		`abs(properties.reported.temperature) > 12`:   true,
		`exp(0) = 1`:                                  true,
		`is_defined(exp(1e5))`:                        false,
		`power(2, 10) = 1024`:                         true,
		`is_defined(power('2', 10))`:                  false,
		`square(-3) = 9`:                              true,
		`sqrt(16) = 4`:                                true,
		`is_defined(sqrt(-1))`:                        false,
		`ceiling(1.2) = 2 AND floor(1.8) = 1`:         true,
		`sign(-5) + sign(0) + sign(9) = 0`:            true,
		`as_number('1.5') = 1.5 AND as_number(2) = 2`: true,
		`is_defined(as_number('x'))`:                  false,
		`is_string(status) AND is_number(version)`:    true,
		`is_array(properties.reported.list)`:          true,
		`is_object(properties.reported.nested)`:       true,
		`is_bool(status)`:                             false,
		`is_null(properties.reported.none)`:           true,
		`is_primitive(tags)`:                          false,
		`is_primitive(version)`:                       true,
	} {
		q, err := query.Parse("select * from devices where " + condition)
		if err != nil {
			t.Errorf("%s: %v", condition, err)
			continue
		}
		if got := q.Matches(doc); got != want {
			t.Errorf("%s is %v, want %v", condition, got, want)
		}
	}
}
