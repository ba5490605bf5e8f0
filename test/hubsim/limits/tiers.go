package limits

// methodMeter is the step, in bytes, in which direct methods are counted
// (section 6.1).
const methodMeter = 4 << 10

// rate is how many operations a second a tier allows.
type rate struct {
	perUnit float64
	least   float64 // whatever the number of units
}

// tier is a row of the price list.
type tier struct {
	quota float64 // messages a day and unit
	meter int     // bytes that count as one message (section 6.1)
	rates [operations]rate
}

// tiers hold the table of section 6.1. The daily quotas are those of the
// vendor's price list: 8,000 for F1, and 400,000, 6 million and 300 million a
// unit for S1, S2 and S3.
var tiers = map[string]tier{
	"F1": {8_000, 512, small},
	"S1": {400_000, 4 << 10, small},
	"S2": {6_000_000, 4 << 10, middle},
	"S3": {300_000_000, 4 << 10, large},
}

var (
	small = [operations]rate{
		RegistryOperation: {perUnit: 100.0 / 60},
		Connection:        {12, 100},
		Telemetry:         {12, 100},
		CommandSend:       {perUnit: 100.0 / 60},
		CommandReceive:    {perUnit: 1000.0 / 60},
		Upload:            {perUnit: 100.0 / 60},
		Method:            {perUnit: 160 << 10 / methodMeter},
		Query:             {perUnit: 20.0 / 60},
		TwinRead:          {least: 100},
		TwinUpdate:        {least: 50},
		Job:               {perUnit: 100.0 / 60},
		JobDevice:         {least: 10},
	}
	middle = [operations]rate{
		RegistryOperation: {perUnit: 100.0 / 60},
		Connection:        {perUnit: 120},
		Telemetry:         {perUnit: 120},
		CommandSend:       {perUnit: 100.0 / 60},
		CommandReceive:    {perUnit: 1000.0 / 60},
		Upload:            {perUnit: 100.0 / 60},
		Method:            {perUnit: 480 << 10 / methodMeter},
		Query:             {perUnit: 20.0 / 60},
		TwinRead:          {10, 100},
		TwinUpdate:        {5, 50},
		Job:               {perUnit: 100.0 / 60},
		JobDevice:         {1, 10},
	}
	large = [operations]rate{
		RegistryOperation: {perUnit: 5000.0 / 60},
		Connection:        {perUnit: 6000},
		Telemetry:         {perUnit: 6000},
		CommandSend:       {perUnit: 5000.0 / 60},
		CommandReceive:    {perUnit: 50000.0 / 60},
		Upload:            {perUnit: 5000.0 / 60},
		Method:            {perUnit: 24 << 20 / methodMeter},
		Query:             {perUnit: 1000.0 / 60},
		TwinRead:          {perUnit: 500},
		TwinUpdate:        {perUnit: 250},
		Job:               {perUnit: 5000.0 / 60},
		JobDevice:         {perUnit: 50},
	}
)
