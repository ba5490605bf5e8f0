/* A leaf n1 that speaks MQTT-SN with the packets of Eclipse Paho (MQTTSNPacket), in HDLC-lite
 * frames on descriptor 0, which is a serial line. It says on standard output what has happened,
 * sleeps until something comes on descriptor 3, and ends with 0 if all went as it should. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "MQTTSNPacket.h"

#define NAME "n1"
#define SIZE 512

static unsigned char buf[SIZE];

static void fail(const char *what)
{
	printf("FAILED: %s\n", what);
	exit(1);
}

static unsigned short fcs(const unsigned char *p, int n) /* RFC 1662, appendix C */
{
	unsigned short v = 0xFFFF;
	int i;

	while (n--)
		for (v ^= *p++, i = 0; i < 8; i++)
			v = v & 1 ? v >> 1 ^ 0x8408 : v >> 1;
	return v ^ 0xFFFF;
}

static void put(int n) /* the first n octets of buf, as Paho has made them */
{
	unsigned char content[SIZE + 2], frame[2 * SIZE + 6];
	int i, length = 0;

	if (n <= 0)
		fail("Paho makes no packet");
	memcpy(content, buf, n);
	content[n] = fcs(buf, n) & 0xFF;
	content[n + 1] = fcs(buf, n) >> 8;
	frame[length++] = 0x7E;
	for (i = 0; i < n + 2; i++) {
		if (content[i] == 0x7E || content[i] == 0x7D) {
			frame[length++] = 0x7D;
			content[i] ^= 0x20;
		}
		frame[length++] = content[i];
	}
	frame[length++] = 0x7E;
	if (write(0, frame, length) != length)
		fail("the line takes nothing");
}

static unsigned char packet[SIZE];
static int packet_length, packet_at;

static void frame(void) /* waits for one that is right */
{
	int n = 0, escaped = 0;
	unsigned char c;

	while (read(0, &c, 1) == 1) {
		if (c == 0x7E) {
			if (n > 2 && fcs(packet, n - 2) == (packet[n - 2] | packet[n - 1] << 8)) {
				packet_length = n - 2;
				packet_at = 0;
				return;
			}
			n = escaped = 0;
		} else if (c == 0x7D) {
			escaped = 1;
		} else if (n < SIZE) {
			packet[n++] = escaped ? c ^ 0x20 : c;
			escaped = 0;
		}
	}
	fail("the line has ended");
}

static int from_packet(unsigned char *to, int count) /* what Paho reads by */
{
	int left = packet_length - packet_at;

	if (count > left)
		count = left;
	memcpy(to, packet + packet_at, count);
	packet_at += count;
	return count;
}

static int get(void)
{
	frame();
	return MQTTSNPacket_read(buf, SIZE, from_packet);
}

static unsigned short command; /* topic id by which commands come */

static void published(void)
{
	unsigned char dup, retained, *payload;
	unsigned short id;
	MQTTSN_topicid topic;
	int qos, length;

	if (MQTTSNDeserialize_publish(&dup, &qos, &retained, &id, &topic, &payload, &length, buf, SIZE) != 1)
		fail("PUBLISH");
	if (topic.data.id != command)
		fail("PUBLISH by another topic");
	printf("told %.*s\n", length, payload);
	put(MQTTSNSerialize_puback(buf, SIZE, topic.data.id, id, MQTTSN_RC_ACCEPTED));
}

static void registered(void)
{
	unsigned short topic, id;
	MQTTSNString name;

	if (MQTTSNDeserialize_register(&topic, &id, &name, buf, SIZE) != 1)
		fail("REGISTER");
	printf("registered %.*s\n", name.lenstring.len, name.lenstring.data);
	command = topic;
	put(MQTTSNSerialize_regack(buf, SIZE, topic, id, MQTTSN_RC_ACCEPTED));
}

static void until(int type, const char *name) /* answers what comes before */
{
	int got;

	while ((got = get()) != type)
		if (got == MQTTSN_PUBLISH)
			published();
		else if (got == MQTTSN_REGISTER)
			registered();
		else if (got != MQTTSN_ADVERTISE) {
			printf("there came one of type %d\n", got);
			fail(name);
		}
}

int main(void)
{
	MQTTSNPacket_connectData options = MQTTSNPacket_connectData_initializer;
	MQTTSNString name = MQTTSNString_initializer;
	MQTTSN_topicid topic;
	unsigned short id, message;
	unsigned char code, type;
	int rc, qos, duration;
	char letter;

	setvbuf(stdout, NULL, _IOLBF, 0);
	options.clientID.cstring = NAME;
	options.duration = 60;
	options.willFlag = 1;
	put(MQTTSNSerialize_connect(buf, SIZE, &options));
	until(MQTTSN_WILLTOPICREQ, "no WILLTOPICREQ");
	name.cstring = "leaf/" NAME "/alarm";
	put(MQTTSNSerialize_willtopic(buf, SIZE, 1, 0, name));
	until(MQTTSN_WILLMSGREQ, "no WILLMSGREQ");
	name.cstring = "lost";
	put(MQTTSNSerialize_willmsg(buf, SIZE, name));
	until(MQTTSN_CONNACK, "no CONNACK");
	if (MQTTSNDeserialize_connack(&rc, buf, SIZE) != 1 || rc != MQTTSN_RC_ACCEPTED)
		fail("CONNACK");
	puts("connected");

	name.cstring = "leaf/" NAME "/telemetry";
	put(MQTTSNSerialize_register(buf, SIZE, 0, 1, &name));
	until(MQTTSN_REGACK, "no REGACK");
	if (MQTTSNDeserialize_regack(&topic.data.id, &message, &code, buf, SIZE) != 1 || message != 1 || code != MQTTSN_RC_ACCEPTED)
		fail("REGACK");
	topic.type = MQTTSN_TOPIC_TYPE_NORMAL;

	put(MQTTSNSerialize_publish(buf, SIZE, 0, 1, 0, 2, topic, (unsigned char *)"once~}", 6));
	until(MQTTSN_PUBACK, "no PUBACK");
	if (MQTTSNDeserialize_puback(&id, &message, &code, buf, SIZE) != 1 || id != topic.data.id || message != 2 || code != MQTTSN_RC_ACCEPTED)
		fail("PUBACK");
	put(MQTTSNSerialize_publish(buf, SIZE, 0, 0, 0, 0, topic, (unsigned char *)"perhaps", 7));
	put(MQTTSNSerialize_publish(buf, SIZE, 0, 2, 0, 3, topic, (unsigned char *)"exactly", 7));
	until(MQTTSN_PUBREC, "no PUBREC");
	if (MQTTSNDeserialize_ack(&type, &message, buf, SIZE) != 1 || message != 3)
		fail("PUBREC");
	put(MQTTSNSerialize_pubrel(buf, SIZE, 3));
	until(MQTTSN_PUBCOMP, "no PUBCOMP");
	puts("published");

	topic.data.long_.name = "leaf/" NAME "/command/#";
	topic.data.long_.len = strlen(topic.data.long_.name);
	put(MQTTSNSerialize_subscribe(buf, SIZE, 0, 1, 4, &topic));
	until(MQTTSN_SUBACK, "no SUBACK");
	if (MQTTSNDeserialize_suback(&qos, &id, &message, &code, buf, SIZE) != 1 || qos != 1 || message != 4 || code != MQTTSN_RC_ACCEPTED)
		fail("SUBACK");
	puts("subscribed");
	until(MQTTSN_PUBLISH, "no PUBLISH");
	published();

	put(MQTTSNSerialize_disconnect(buf, SIZE, 60));
	until(MQTTSN_DISCONNECT, "no DISCONNECT before sleep");
	if (MQTTSNDeserialize_disconnect(&duration, buf, SIZE) != 1)
		fail("DISCONNECT");
	puts("asleep");
	if (read(3, &letter, 1) != 1)
		fail("never woken");
	name.cstring = NAME;
	put(MQTTSNSerialize_pingreq(buf, SIZE, name));
	until(MQTTSN_PINGRESP, "no PINGRESP");
	puts("awake");

	put(MQTTSNSerialize_disconnect(buf, SIZE, 0));
	until(MQTTSN_DISCONNECT, "no DISCONNECT");
	puts("gone");
	return 0;
}
