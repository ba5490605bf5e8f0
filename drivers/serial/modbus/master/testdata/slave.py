"""A Modbus RTU slave by pymodbus 3.0 with unit 17 on the port in argv[1]."""
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartSerialServer
from pymodbus.transaction import ModbusRtuFramer

slave = ModbusSlaveContext(
    di=ModbusSequentialDataBlock(0, [1, 0, 1] * 8),
    co=ModbusSequentialDataBlock(0, [0] * 16),
    hr=ModbusSequentialDataBlock(0, [0] * 107 + [0xAE41, 0x5652, 0x4340] + [0] * 20),
    ir=ModbusSequentialDataBlock(0, [237] * 16),
    zero_mode=True,
)
print("ready", flush=True)
StartSerialServer(
    context=ModbusServerContext(slaves={17: slave}, single=False),
    framer=ModbusRtuFramer,
    port=sys.argv[1],
    baudrate=115200,
    timeout=0.005,
    ignore_missing_slaves=True,
)
