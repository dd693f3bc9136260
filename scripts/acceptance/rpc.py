"""A plain client of the RocketMQ interface, one request at a time, over the stubs that the official Python SDK brings.

Unlike an SDK it hides nothing: it asks the node it is told to ask, never retries, and gives the status as it came.
"""

import json
import sys
import time

from lib import with_grpc

with_grpc()

import grpc  # noqa: E402
from google.protobuf.duration_pb2 import Duration  # noqa: E402
from rocketmq.grpc_protocol import definition_pb2 as definition  # noqa: E402
from rocketmq.grpc_protocol import service_pb2 as service  # noqa: E402
from rocketmq.grpc_protocol.service_pb2_grpc import MessagingServiceStub  # noqa: E402

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
           ("grpc.enable_retries", 0), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 300)]


class Broken(Exception):
    """No answer: the end of the request is unknown."""


class Client:
    """One connection to one node."""

    def __init__(self, address, client_id="acceptance@1", metadata=(), options=()):
        # Every client has a connection of its own, also to the same node.
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), *options]
        self.channel = grpc.insecure_channel(address, options=options)
        self.stub = MessagingServiceStub(self.channel)
        self.metadata = [("x-mq-client-id", client_id), ("x-mq-language", "PYTHON"), ("x-mq-protocol", "v2"), *metadata]

    def call(self, method, request, timeout=3.0):
        try:
            answer = getattr(self.stub, method)(request, timeout=timeout, metadata=self.metadata)
            return list(answer) if method == "ReceiveMessage" else answer
        except grpc.RpcError as error:
            raise Broken(error.code().name, error.details()) from None

    def send(self, topic, message_id, body=b"acceptance", timeout=3.0):
        """The status code's name, OK if it was acknowledged."""
        answer = self.call("SendMessage", service.SendMessageRequest(messages=[message(topic, message_id, body)]), timeout)
        entry = answer.entries[0].status if answer.entries else answer.status
        return definition.Code.Name(entry.code if answer.status.code == definition.OK else answer.status.code)

    def send_later(self, topic, message_id, body=b"acceptance", timeout=20.0):
        """A send that is on its way: `.result()` as of gRPC futures."""
        request = service.SendMessageRequest(messages=[message(topic, message_id, body)])
        return self.stub.SendMessage.future(request, timeout=timeout, metadata=self.metadata)

    def receive(self, topic, group, count=32, invisible_s=20, poll_s=0.2, timeout=None, auto_renew=False):
        """(status code's name, messages)."""
        request = service.ReceiveMessageRequest(
            group=resource(group), message_queue=definition.MessageQueue(topic=resource(topic)),
            filter_expression=definition.FilterExpression(type=definition.TAG, expression="*"), batch_size=count,
            invisible_duration=duration(invisible_s), long_polling_timeout=duration(poll_s), auto_renew=auto_renew)
        answers = self.call("ReceiveMessage", request, poll_s + 3.0 if timeout is None else timeout)
        status = next((answer.status.code for answer in answers if answer.HasField("status")), None)
        messages = [answer.message for answer in answers if answer.HasField("message")]
        return "NONE" if status is None else definition.Code.Name(status), messages

    def ack(self, topic, group, messages, timeout=3.0):
        """Names of the status codes, one for each message."""
        entries = [service.AckMessageEntry(message_id=each.system_properties.message_id,
                                           receipt_handle=each.system_properties.receipt_handle) for each in messages]
        request = service.AckMessageRequest(group=resource(group), topic=resource(topic), entries=entries)
        answer = self.call("AckMessage", request, timeout)
        return [definition.Code.Name(entry.status.code) for entry in answer.entries]

    def heartbeat(self, group):
        """A sign of life, as push consumers give it every ten seconds."""
        request = service.HeartbeatRequest(group=resource(group), client_type=definition.PUSH_CONSUMER)
        return definition.Code.Name(self.call("Heartbeat", request).status.code)

    def close(self):
        self.channel.close()


def resource(name):
    return definition.Resource(name=name)


def duration(seconds):
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def message(topic, message_id, body=b"acceptance"):
    properties = definition.SystemProperties(message_id=message_id, message_type=definition.NORMAL,
                                             body_encoding=definition.IDENTITY)
    return definition.Message(topic=resource(topic), system_properties=properties, body=body)


def id_of(received):
    return received.system_properties.message_id


def attempt_of(received):
    return received.system_properties.delivery_attempt


def left_over(cluster, group):
    """Messages the consumer group is not done with, or None while not every shard can tell."""
    status, text = cluster.any_running().get(f"/v1/consumer-groups/{group}", timeout=10.0)
    detail = json.loads(text) if status == 200 else None
    return None if detail is None or detail["unreachable_shards"] else sum(detail["total"].values())


def all_served(cluster):
    """Whether every shard is led by a node that runs: until then nothing comes from it, and nothing shows that there is something."""
    view = cluster.any_running().view()
    running = {node.number for node in cluster.nodes if node.running()}
    return bool(view) and all(shard["leader"] in running for shard in view["shards"])


def drain(check, cluster, topic, group, limit_s=180.0, invisible_s=60):
    """Receives and acknowledges until nothing is left: ids with how often each came."""
    seen, clients = {}, [Client(node.client) for node in cluster.nodes if node.running()]
    began, empty = time.monotonic(), 0
    while empty < 3 and time.monotonic() - began < limit_s:
        for client in clients:
            try:
                _, messages = client.receive(topic, group, invisible_s=invisible_s, poll_s=0.2)
                for each in messages:
                    seen[id_of(each)] = seen.get(id_of(each), 0) + 1
                if messages:
                    empty = 0
                    client.ack(topic, group, messages)
            except Broken:
                pass
        empty = empty + 1 if left_over(cluster, group) == 0 and all_served(cluster) else 0
    check.must(empty == 3, f"consumer group {group} was not drained in {limit_s:.0f} s: {left_over(cluster, group)} left")
    for client in clients:
        client.close()
    return seen


if __name__ == "__main__":
    sys.exit("this is a library")
