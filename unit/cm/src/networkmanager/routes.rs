//! Networks that the host reaches already, from `/proc/net/route`.

use std::net::Ipv4Addr;

use super::pool::Subnet;

/// Reads the kernel's table; the default route is left out. Lines that cannot be read are skipped.
pub fn parse(table: &str) -> Vec<Subnet> {
    let address = |digits: &str| {
        // The bytes of the address as they lie in memory, read as one number of this machine.
        u32::from_str_radix(digits, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let destination = address(fields.get(1)?)?;
            let mask = u32::from(address(fields.get(7)?)?);
            let prefix = u8::try_from(mask.leading_ones()).ok()?;
            (prefix > 0).then(|| Subnet::new(destination, prefix))
        })
        .collect()
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\nbroken\n";
        assert_eq!(parse(table), ["172.17.0.0/16".parse().unwrap()]);
    }
}
