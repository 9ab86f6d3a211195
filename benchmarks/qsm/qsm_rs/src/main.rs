//! One QSM.rs pipeline on one field map: raw float64 volumes in, susceptibility [ppm] out, settings as QSM.rs ships them.
//!
//! qsm-peer FOLDER REMOVAL INVERSION    with FOLDER/{scan.txt,field_ppm.f64,magnitude.f64,mask.u8}, x fastest; writes chi_ppm.f64

use qsm_core::pipeline::{
    run_bg_removal, run_dipole_inversion, BgRemovalAlgorithm, BgRemovalConfig, InversionAlgorithm, InversionConfig, ScanMetadata,
};
use std::{env, fs, path::Path};

fn volume(path: &Path) -> Vec<f64> {
    let bytes = fs::read(path).expect("a volume of the scan");
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let folder = Path::new(&arguments[1]);
    // nx ny nz  dx dy dz [mm]  bx by bz  tesla  echo time [s]
    let scan: Vec<f64> =
        fs::read_to_string(folder.join("scan.txt")).expect("scan.txt").split_whitespace().map(|v| v.parse().unwrap()).collect();
    let metadata = ScanMetadata {
        dims: (scan[0] as usize, scan[1] as usize, scan[2] as usize),
        voxel_size: (scan[3], scan[4], scan[5]),
        b0_direction: (scan[6], scan[7], scan[8]),
        field_strength: scan[9],
        echo_times: vec![scan[10]],
    };
    let removal = match arguments[2].as_str() {
        "lbv" => BgRemovalAlgorithm::Lbv,
        "pdf" => BgRemovalAlgorithm::Pdf,
        "vsharp" => BgRemovalAlgorithm::Vsharp,
        other => panic!("unknown background removal {other}"),
    };
    let inversion = match arguments[3].as_str() {
        "rts" => InversionAlgorithm::Rts,
        "tkd" => InversionAlgorithm::Tkd,
        "tv" => InversionAlgorithm::Tv,
        "medi" => InversionAlgorithm::Medi,
        "ilsqr" => InversionAlgorithm::Ilsqr,
        other => panic!("unknown inversion {other}"),
    };
    let mask = fs::read(folder.join("mask.u8")).expect("mask.u8");
    let field = volume(&folder.join("field_ppm.f64"));
    let magnitude = volume(&folder.join("magnitude.f64"));
    let local = run_bg_removal(
        &field, &mask, &metadata, &BgRemovalConfig { algorithm: removal, ..Default::default() }, &mut |_, _| {},
    )
    .expect("background removal");
    let chi = run_dipole_inversion(
        &local.local_field_ppm, &local.eroded_mask, &metadata,
        &InversionConfig { algorithm: inversion, ..Default::default() }, Some(&magnitude), &mut |_, _| {},
    )
    .expect("dipole inversion");
    let seen = chi.iter().zip(&local.eroded_mask).map(|(&value, &inside)| if inside > 0 { value } else { f64::NAN });
    fs::write(folder.join("chi_ppm.f64"), seen.flat_map(f64::to_le_bytes).collect::<Vec<u8>>()).expect("the map is written");
}
