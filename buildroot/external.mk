include $(sort $(wildcard $(BR2_EXTERNAL_FIELDGATE_PATH)/package/*/*.mk))

# A board's defconfig says only what is of that board. Alone it would build a
# system without the gateway.
ifeq ($(BR2_HAVE_DOT_CONFIG)$(BR2_PACKAGE_FIELDGATE),y)
$(error The configuration lacks configs/common.fragment: configure with make image BOARD=... of Fieldgate)
endif
