# What U-Boot runs, on every board: choose a slot, count the start, boot it.
#
# The state of the slots lies in the partition bootstate, twice, in the format of
# U-Boot's redundant environment, so that fw_setenv and RAUC read and write the
# same: 4 bytes of CRC over the data, 1 byte that counts the writes, the data. A
# copy that a power cut tore has a wrong CRC, and the other one counts. A write
# goes over the older copy.
#
# devtype and devnum are set by U-Boot: where it found this script. Numbers are
# hexadecimal without 0x where U-Boot wants them so.

${devtype} dev ${devnum}

setenv vars "BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT MACHINE_ID"
setexpr raw ${kernel_addr_r} + 0
setexpr rawflag ${raw} + 4
setexpr rawdata ${raw} + 5
setexpr plain ${kernel_addr_r} + 10000
setexpr plaindata ${plain} + 4
part start ${devtype} ${devnum} 2 copy0
setexpr copy1 ${copy0} + 200

# The copy that was written later is tried first.
${devtype} read ${raw} ${copy0} 1
setexpr.b flag0 *${rawflag}
${devtype} read ${raw} ${copy1} 1
setexpr.b flag1 *${rawflag}
setenv order "0 1"
if test 0x${flag1} -gt 0x${flag0}; then setenv order "1 0"; fi
if test 0x${flag0} -eq 0 && test 0x${flag1} -eq 255; then setenv order "0 1"; fi
if test 0x${flag1} -eq 0 && test 0x${flag0} -eq 255; then setenv order "1 0"; fi

setenv BOOT_ORDER "A B"
setenv BOOT_A_LEFT 3
setenv BOOT_B_LEFT 3
setenv MACHINE_ID
setenv copy none
setenv flag 0
for n in "${order}"; do
	if test ${copy} = none; then
		if test ${n} = 0; then setenv block ${copy0}; else setenv block ${copy1}; fi
		${devtype} read ${raw} ${block} 20
		cp.b ${raw} ${plain} 4
		cp.b ${rawdata} ${plaindata} 3ffb
		if env import -c ${plain} 3fff ${vars}; then
			setenv copy ${n}
			setexpr.b flag *${rawflag}
		fi
	fi
done
echo "boot state: copy ${copy}, order ${BOOT_ORDER}, A ${BOOT_A_LEFT}, B ${BOOT_B_LEFT}"

# The first slot of the order that has a start left.
setenv slot
for s in "${BOOT_ORDER}"; do
	if test -z "${slot}"; then
		if test ${s} = A && test 0x${BOOT_A_LEFT} -gt 0; then
			setenv slot A
			setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
		elif test ${s} = B && test 0x${BOOT_B_LEFT} -gt 0; then
			setenv slot B
			setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
		fi
	fi
done
if test -z "${slot}"; then
	echo "no slot has a start left: both are tried anew"
	setenv BOOT_ORDER "A B"
	setenv BOOT_A_LEFT 2
	setenv BOOT_B_LEFT 3
	setenv slot A
fi

# The start is noted before it is made.
if test 0x${flag} -eq 255; then setenv flag 0; else setexpr flag ${flag} + 1; fi
if test ${copy} = 0; then setenv block ${copy1}; else setenv block ${copy0}; fi
env export -c -s 3fff ${plain} ${vars}
cp.b ${plain} ${raw} 4
mw.b ${rawflag} ${flag} 1
cp.b ${plaindata} ${rawdata} 3ffb
${devtype} write ${raw} ${block} 20

# A slot is a squashfs and, from the next 4 KiB on, a FIT: the kernel with its
# checksums. The superblock says at byte 40 how long the squashfs is; the first
# block of the FIT how long that is. So U-Boot needs no file system here.
if test ${slot} = A; then
	setenv number 3
	setenv label rootfs-a
else
	setenv number 4
	setenv label rootfs-b
fi
part start ${devtype} ${devnum} ${number} start
${devtype} read ${raw} ${start} 1
setexpr at ${raw} + 28
setexpr.l length *${at}
setexpr length ${length} + fff
setexpr length ${length} / 1000
setexpr length ${length} * 8
setexpr start ${start} + ${length}

setenv fit ${ramdisk_addr_r}
setenv fdt_high
${devtype} read ${fit} ${start} 1
fdt addr ${fit}
fdt header get length totalsize
setexpr length ${length} + 1ff
setexpr length ${length} / 200
${devtype} read ${fit} ${start} ${length}

setenv ramdisk -
if fdt get value name /images/ramdisk type; then setenv ramdisk ${fit}:ramdisk; fi
test -n "${fdt_addr}" || setenv fdt_addr ${fdtcontroladdr}

setenv bootargs "root=PARTLABEL=${label} rootfstype=squashfs ro rootwait rauc.slot=${slot} console=@CONSOLE@ panic=10 systemd.gpt_auto=0 systemd.getty_auto=0"
if test -n "${MACHINE_ID}"; then setenv bootargs "${bootargs} systemd.machine_id=${MACHINE_ID}"; fi
bootm ${fit}:kernel ${ramdisk} ${fdt_addr}

# Not reached unless the slot is damaged. The start was counted.
reset
