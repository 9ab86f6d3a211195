% PDF and MEDI of the MEDI toolbox, as shipped, on one field map: octave peer.m TOOLBOX FOLDER
% FOLDER holds scan.txt and raw float64 volumes, x fastest; chi_ppm.f64 is written there.
arguments = argv();
folder = arguments{2};
addpath(arguments{1});  % with padarray and store_QSM_results of this script's folder
scan = load(fullfile(folder, 'scan.txt'));
matrix_size = scan(1:3); voxel_size = scan(4:6); B0_dir = scan(7:9)';
CF = scan(10) * 42.57747892e6; delta_TE = scan(12);
volume = @(name) reshape(fread(fopen(fullfile(folder, name)), prod(matrix_size), 'float64'), matrix_size);
Mask = reshape(fread(fopen(fullfile(folder, 'mask.u8')), prod(matrix_size), 'uint8'), matrix_size) > 0;
iMag = volume('magnitude.f64') .* Mask;
N_std = volume('noise.f64') .* Mask * (2 * pi * delta_TE * CF * 1e-6);
iFreq = volume('field_ppm.f64') .* Mask * (2 * pi * delta_TE * CF * 1e-6);
RDF = PDF(iFreq, N_std, Mask, matrix_size, voxel_size, B0_dir);
cd(folder);
save('-v6', 'RDF.mat', 'iFreq', 'RDF', 'N_std', 'iMag', 'Mask', 'matrix_size', 'voxel_size', 'delta_TE', 'CF', 'B0_dir');
x = MEDI_L1('lambda', 1000, 'zeropad', 2 * ceil(30 ./ voxel_size));
x(~Mask) = NaN;
out = fopen('chi_ppm.f64', 'w');
fwrite(out, x, 'float64');
fclose(out);
