################################################################################
#
# fieldgate
#
################################################################################

FIELDGATE_VERSION = local
# "make image" copies the committed files there and vendors the Go modules:
# Buildroot builds with the module proxy off.
FIELDGATE_SITE = $(BR2_EXTERNAL_FIELDGATE_PATH)/../bin/image/source
FIELDGATE_SITE_METHOD = local
FIELDGATE_DEPENDENCIES = host-go

# golang-package changed incompatibly between the LTS and the releases after it,
# so build and install are spelt out.
define FIELDGATE_BUILD_CMDS
	cd $(@D) && $(HOST_GO_TARGET_ENV) CGO_ENABLED=0 GOFLAGS=-mod=vendor \
		$(MAKE) arm64 GO="$(GO_BIN)"
endef

define FIELDGATE_INSTALL_TARGET_CMDS
	$(@D)/systemd/install.sh $(@D)/bin/fieldgate-arm64 $(TARGET_DIR) /usr appliance
endef

# As in systemd/sysusers.d: the root is read-only, so users are made here.
define FIELDGATE_USERS
	fieldgate 900 fieldgate 900 * /var/lib/fieldgate - dialout,gpio Fieldgate
	- -1 fieldgate-admin 901 - - - - Operators
	- -1 gpio -1 - - - - Lines of GPIO chips
endef

$(eval $(generic-package))
