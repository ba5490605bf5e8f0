// Package gateway is the domain: the words of Fieldgate and the way a message
// takes from a leaf to the hub.
//
// The words, used with these meanings everywhere:
//
//	leaf      a device behind the gateway
//	hub       the IoT hub upstream
//	uplink    the one connection to the hub
//	driver    one physical way to reach leaves (serial, BLE)
//	broker    where MQTT leaves and local programs meet
//	module    one processing step between leaf and custody
//	custody   who answers for a message: the leaf until it is acknowledged, then us
//	settle    the hub's final word on a message
//	lane      a queue with its own order, priority, time to live and bound
//	backlog   what is stored and not yet settled
//
// To follow one message, read up.go from top to bottom; it is the path in the
// order in which it happens. The package imports nothing else of Fieldgate:
// drivers, broker, store and uplink are adapters around it, and meet it in the
// interfaces Driver, Module, Store and Outbox.
package gateway
