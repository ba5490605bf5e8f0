"""A device and a back end on Apache Qpid Proton, an AMQP library that has
nothing to do with the vendor's: what it takes for AMQP 1.0 is AMQP 1.0.

    hub-proton.py ADDRESS CA_FILE DEVICE_CONNECTION_STRING SERVICE_CONNECTION_STRING COUNT

ADDRESS is host:port of the hub. The device sends COUNT messages; then the back
end sends COUNT commands, of which the device releases the first once, rejects
the second and accepts the others. Prints a JSON object a line.
"""

import base64
import hashlib
import hmac
import json
import sys
import time
import urllib.parse
import uuid

from proton import Delivery, Message, SSLDomain, symbol
from proton.reactor import AtLeastOnce, LinkOption
from proton.utils import BlockingConnection

TIMEOUT = 30  # seconds, for every single step


def say(**what):
    print(json.dumps(what), flush=True)


def parts(connection_string):
    return dict(part.split("=", 1) for part in connection_string.split(";"))


def token(resource, key, policy=None):
    """Returns a shared access signature for an hour (wire contract, section 1.1)."""
    about = urllib.parse.quote(resource, safe="")
    expiry = str(int(time.time()) + 3600)
    signed = hmac.new(base64.b64decode(key), f"{about}\n{expiry}".encode(), hashlib.sha256)
    signature = urllib.parse.quote(base64.b64encode(signed.digest()), safe="")
    text = f"SharedAccessSignature sr={about}&sig={signature}&se={expiry}"
    return text + (f"&skn={policy}" if policy else "")


class SettleSecond(LinkOption):
    """Asks for settlement in two steps, the less usual one."""

    def apply(self, link):
        link.rcv_settle_mode = 1


class Client:
    """A connection that has put a token."""

    def __init__(self, address, ca, host, text):
        tls = SSLDomain(SSLDomain.MODE_CLIENT)
        tls.set_trusted_ca_db(ca)
        tls.set_peer_authentication(SSLDomain.VERIFY_PEER)
        self.connection = BlockingConnection(
            "amqps://" + address, timeout=TIMEOUT, ssl_domain=tls, allowed_mechs="ANONYMOUS"
        )
        requests = self.connection.create_sender("$cbs")
        answers = self.connection.create_receiver("$cbs", credit=1)
        request = Message(id=uuid.uuid4(), reply_to="cbs", body=text)
        request.properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": host}
        requests.send(request)
        answer = answers.receive(timeout=TIMEOUT)
        answers.accept()
        say(status=answer.properties["status-code"], correlated=answer.correlation_id == request.id)

    def close(self):
        self.connection.close()


def telemetry(device, name, count):
    sender = device.connection.create_sender(f"/devices/{name}/messages/events", options=AtLeastOnce())
    for n in range(1, count + 1):
        message = Message(id=str(n), body=b'{"n":%d}' % n, inferred=True, properties={"by": "proton"})
        delivery = sender.send(message, timeout=TIMEOUT)
        say(telemetry=n, accepted=delivery.remote_state == Delivery.ACCEPTED)


def commands(device, service, name, count):
    address = f"/devices/{name}/messages/devicebound"
    receiver = device.connection.create_receiver(address, credit=1, options=SettleSecond())
    sender = service.connection.create_sender("/messages/devicebound", options=AtLeastOnce())
    for n in range(1, count + 1):
        sender.send(Message(id=str(n), address=address, body=b"command %d" % n, inferred=True), timeout=TIMEOUT)
    released = False
    settled = 0
    while settled < count:
        message = receiver.receive(timeout=TIMEOUT)
        again = message.annotations[symbol("iothub-deliverycount")]
        outcome = "accepted"
        if message.id == "1" and not released:
            released, outcome = True, "released"
            receiver.release(delivered=False)
        elif message.id == "2":
            outcome, settled = "rejected", settled + 1
            receiver.reject()
        else:
            settled += 1
            receiver.accept()
        say(command=message.id, body=bytes(message.body).decode(), count=int(again), outcome=outcome)


def main(address, ca, device_string, service_string, count):
    leaf, owner = parts(device_string), parts(service_string)
    host, name = leaf["HostName"], leaf["DeviceId"]
    device = Client(address, ca, host, token(f"{host}/devices/{name}", leaf["SharedAccessKey"]))
    policy = owner["SharedAccessKeyName"]
    service = Client(address, ca, host, token(host, owner["SharedAccessKey"], policy))
    telemetry(device, name, int(count))
    commands(device, service, name, int(count))
    device.close()
    service.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
