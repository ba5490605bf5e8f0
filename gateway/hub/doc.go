// Package hub is the IoT Hub dialect as pure functions: how the hub's names,
// topics, addresses, messages and errors are spelt. It does no I/O and keeps no
// state; brokers and transports do that with what they find here.
//
// mqtt.go is what leaves say to us over MQTT, amqp.go what we say to the hub
// over AMQP, fault.go what the hub's errors ask for.
package hub
