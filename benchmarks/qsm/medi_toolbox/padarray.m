function padded = padarray(volume, amount, varargin)
% Zeros after the last voxel of each axis: what the toolbox needs of the image package's function.
padded = zeros(size(volume) + amount(:)');
padded(1:size(volume, 1), 1:size(volume, 2), 1:size(volume, 3)) = volume;
end
